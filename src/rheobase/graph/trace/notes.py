"""What tracing found besides the graph: rewrites and refusals."""

from __future__ import annotations

from dataclasses import dataclass, field

from rheobase.core.errors import TraceError
from rheobase.graph.graph import Graph


@dataclass(frozen=True)
class Note:
    """Something the tracer did to the network, or refused to do. ``remedy`` is set for refusals."""

    where: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" + (f". Remedy: {self.remedy}" if self.remedy else "")


@dataclass
class Capture:
    """What tracing found: the graph as written, the rewrites, and the refusals (any: not convertible)."""

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
        lines = "".join(f"\n  - {note}" for note in self.refusals)
        raise TraceError(f"{len(self.refusals)} parts of the network cannot become spiking:{lines}")
