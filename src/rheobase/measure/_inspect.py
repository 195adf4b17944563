"""What the converter sees in a network, before anything is converted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rheobase.graph.rewrites.batch_norm import fold_batch_norm
from rheobase.graph.sites import Site, site_table
from rheobase.graph.trace.capture import capture
from rheobase.graph.trace.notes import Note


@dataclass(frozen=True)
class Inspection:
    """Sites, rewrites and refusals of a network. Printing it shows the whole table.

    Attributes:
        sites: every activation call that would become a layer of neurons.
        operations: how many affine operations of each kind stand between them.
        rewrites: what the converter changes without changing the function.
        refusals: what it cannot convert, each with a remedy; empty: the network can be converted.
    """

    sites: tuple[Site, ...]
    operations: dict[str, int]
    rewrites: tuple[Note, ...]
    refusals: tuple[Note, ...]

    @property
    def convertible(self) -> bool:
        """Whether nothing is refused."""
        return not self.refusals

    def to_json(self) -> dict[str, object]:
        """As plain values, for ``--json``."""
        return {
            "convertible": self.convertible,
            "sites": [
                {
                    "name": s.name,
                    "shape": list(s.shape),
                    "upper": s.upper,
                    "levels": s.levels,
                    "rounding": s.rounding,
                    "previous": list(s.previous),
                    "next": list(s.next),
                }
                for s in self.sites
            ],
            "operations": self.operations,
            "rewrites": [{"where": n.where, "text": n.text} for n in self.rewrites],
            "refusals": [{"where": n.where, "reason": n.text, "remedy": n.remedy} for n in self.refusals],
        }

    def print(self, console: Console) -> None:
        """Print the table to a rich console."""
        table = Table(title=f"{len(self.sites)} activation sites")
        for column in ("#", "site", "shape", "saturates at", "from", "to"):
            table.add_column(column, overflow="fold")
        for s in self.sites:
            saturation = "-" if s.upper is None else f"{s.upper:g}"
            if s.levels is not None:
                saturation = f"trained θ, {s.levels} levels, {s.rounding}"
            shape = "×".join(map(str, s.shape))
            came, goes = ", ".join(s.previous) or "input", ", ".join(s.next) or "readout"
            table.add_row(str(s.index), s.name, shape, saturation, came, goes)
        console.print(table)
        console.print("Between them: " + ", ".join(f"{n} {name}" for name, n in self.operations.items()))
        for title, notes in (("Rewritten", self.rewrites), ("Refused", self.refusals)):
            if notes:
                console.print(f"{title}:")
                for note in notes:
                    console.print(f"  - {note}", markup=False, highlight=False)

    def __str__(self) -> str:
        console = Console(width=120, record=True, file=StringIO())
        self.print(console)
        return console.export_text()


def inspect(model: nn.Module, example: Tensor) -> Inspection:
    """List the sites, rewrites and refusals of a network, without converting it.

    Args:
        model: a trained network.
        example: a batch of inputs, [B, ...].

    Raises:
        TraceError: if the network cannot be followed at all (it fails on the example, or branches on data).
        ModelError: if a weight is NaN or infinite.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> rb.inspect(zoo.resnet20(), torch.rand(1, 3, 32, 32)).convertible
        True
    """
    found = capture(model, example)
    rewrites, refusals = list(found.rewrites), list(found.refusals)
    graph, folded = found.graph, Counter(n.operation for n in found.graph.nodes)["batch_norm"]
    if folded and not refusals:
        graph, standalone = fold_batch_norm(graph)
        rewrites.append(Note("batch normalisation", f"{folded - len(standalone)} folded into the layer before"))
        rewrites += [Note(*text.split(": ", 1)) for text in standalone]
    refusals += [
        Note(n.origin, "max-pooling: a choice is needed", 'convert with max_pool="gate" or max_pool="average"')
        for n in graph.nodes
        if n.operation == "max_pool"
    ]
    kinds = Counter(n.operation for n in graph.nodes if n.operation not in ("input", "site", "refused"))
    return Inspection(site_table(graph), dict(kinds), tuple(rewrites), tuple(refusals))
