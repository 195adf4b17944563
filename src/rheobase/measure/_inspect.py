"""Sites, rewrites and refusals of a network, before conversion."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rheobase.core.results import Column, Result, Table, plain_values
from rheobase.graph.operations.numbers import function_of
from rheobase.graph.rewrites.batch_norm import fold_batch_norm
from rheobase.graph.rewrites.linear_sites import Sites, place_sites
from rheobase.graph.rewrites.pieces import replace_functions
from rheobase.graph.sites import Site, site_table
from rheobase.graph.trace.call import Note
from rheobase.graph.trace.capture import capture
from rheobase.graph.trace.nonlinear import Nonlinear, on_numbers


@dataclass(frozen=True)
class Inspection(Result):
    """Sites, rewrites and refusals of a network. Printing it shows the table.

    Attributes:
        sites: activation calls that become layers of neurons.
        operations: kind of affine operation -> number of such operations.
        on_numbers: function -> number of nodes that compute it on numbers (``nonlinear="numbers"``).
        rewrites: changes by the converter that preserve the function.
        refusals: places that cannot be converted, each with a remedy; empty if the network can be converted.
    """

    sites: tuple[Site, ...]
    operations: dict[str, int]
    on_numbers: dict[str, int]
    rewrites: tuple[Note, ...]
    refusals: tuple[Note, ...]

    @property
    def convertible(self) -> bool:
        """True if nothing is refused."""
        return not self.refusals

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        shown = ("name", "shape", "lower", "upper", "levels", "rounding", "previous", "next")
        return {
            "convertible": self.convertible,
            "sites": [{name: plain_values(getattr(site, name)) for name in shown} for site in self.sites],
            "operations": self.operations,
            "on_numbers": self.on_numbers,
            "rewrites": [{"where": note.where, "text": note.text} for note in self.rewrites],
            "refusals": [{"where": n.where, "reason": n.text, "remedy": n.remedy} for n in self.refusals],
        }

    def table(self) -> Table:
        """One row for each site."""

        def saturation(site: Site) -> str | None:
            if site.lower < 0:
                return "signed, no limit" if site.upper is None else f"{site.lower:g}, {site.upper:g}"
            if site.levels is not None:
                return f"trained θ, {site.levels} levels, {site.rounding}"
            return None if site.upper is None else f"{site.upper:g}"

        columns = site_columns(Column("saturates at", saturation, align="left"))
        return Table(columns, self.sites, f"{len(self.sites)} activation sites")

    def summary(self) -> str:
        """Operations, rewrites and refusals."""
        parts = ["Between them: " + ", ".join(f"{n} {name}" for name, n in self.operations.items()) + "."]
        if self.on_numbers:
            parts.append("On numbers: " + ", ".join(f"{n} {name}" for name, n in self.on_numbers.items()) + ".")
        for title, notes in (("Rewritten", self.rewrites), ("Refused", self.refusals)):
            if notes:
                parts.append("\n".join((f"{title}:\n", *(f"- {note}" for note in notes))))
        return "\n\n".join(parts)


def site_columns(*middle: Column) -> tuple[Column, ...]:
    """Return columns for index, name and shape of a site, the ``middle``, and the sites before and after it."""
    return (
        Column("#", "index"),
        Column("site", "name", align="left"),
        Column("shape", lambda site: "×".join(map(str, site.shape)), align="left"),
        *middle,
        Column("from", lambda site: ", ".join(site.previous) or "input", align="left"),
        Column("to", lambda site: ", ".join(site.next) or "readout", align="left"),
    )


def inspect(
    model: nn.Module,
    example: Tensor,
    *,
    output: str | int | None = None,
    nonlinear: Nonlinear = "refuse",
    sites: Sites = "activations",
) -> Inspection:
    """List the sites, rewrites and refusals of a network, without converting it.

    Args:
        model: a trained network.
        example: a batch of inputs, [B, ...].
        output, nonlinear, sites: as for :func:`rheobase.convert`.

    Raises:
        TraceError: if the network cannot be traced (it fails on the example, or branches on data).
        ModelError: if a weight is NaN or infinite.
        RecipeError: if ``sites="all"`` changes nothing.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> rb.inspect(zoo.resnet20(), torch.rand(1, 3, 32, 32)).convertible
        True
    """
    found = replace_functions(capture(model, example, output=output, nonlinear=nonlinear), nonlinear, example)
    rewrites, refusals = list(found.rewrites), list(found.refusals)
    graph, folded = found.graph, Counter(n.operation for n in found.graph.nodes)["batch_norm"]
    if not refusals:
        graph, linear = place_sites(graph, sites)
        rewrites += linear
    if folded and not refusals:
        graph, standalone = fold_batch_norm(graph)
        rewrites.append(Note("batch normalisation", f"{folded - len(standalone)} folded into the layer before"))
        rewrites += [Note(*text.split(": ", 1)) for text in standalone]
    refusals += [
        Note(n.origin, "max-pooling is refused by default", 'convert with max_pool="gate" or max_pool="average"')
        for n in graph.nodes
        if n.operation == "max_pool"
    ]
    numbers = on_numbers(graph.nodes)
    kinds = Counter(n.operation for n in graph.nodes if n.operation not in ("input", "site", "refused"))
    kinds -= Counter(n.operation for n in numbers)
    functions = Counter(map(function_of, numbers))
    return Inspection(site_table(graph), dict(kinds), dict(functions), tuple(rewrites), tuple(refusals))
