"""The result of tracing: graph, rewrites and refusals."""

from __future__ import annotations

from dataclasses import dataclass, field

from rheobase.core.errors import TraceError
from rheobase.graph.graph import Graph


@dataclass(frozen=True)
class Note:
    """A rewrite or a refusal of a part of the network; a refusal has a remedy."""

    where: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" + (f". Remedy: {self.remedy}" if self.remedy else "")


@dataclass
class Capture:
    """The result of tracing: the graph, the rewrites, and the refusals; with any refusal it cannot be converted."""

    graph: Graph
    rewrites: list[Note] = field(default_factory=list)
    refusals: list[Note] = field(default_factory=list)

    def raise_if_refused(self) -> None:
        """Raise one :class:`TraceError` that lists every refusal.

        Raises:
            TraceError: if there is any.
        """
        if not self.refusals:
            return
        first, *rest = self.refusals
        if not rest:
            raise TraceError(first.text, where=first.where, remedy=first.remedy)
        notes = "".join(f"\n  - {note}" for note in self.refusals)
        raise TraceError(f"{len(self.refusals)} parts of the network cannot be converted:{notes}")
