"""The table of activation sites that every later stage reads."""

from __future__ import annotations

from dataclasses import dataclass

from rheobase.activations import ACTIVATIONS, Bounds, Rounding
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node


@dataclass(frozen=True)
class Site:
    """One call of an activation function.

    Attributes:
        name: unique name, the module path where the activation is a module's (``layer1.0.relu:2``: its second call).
        index: position in execution order.
        shape: shape of one sample, [C, ...]; channels are always the first axis.
        bounds: of the activation; ``upper``, ``levels`` and ``rounding`` are parts of it.
        previous: sites whose output reaches this one through affine operations; empty: the network's input does.
        next: sites that this one's output reaches; empty: the readout.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    bounds: Bounds
    previous: tuple[str, ...]
    next: tuple[str, ...]
    origin: str

    @property
    def upper(self) -> float | None:
        """Where the activation saturates (6 for ReLU6), or None."""
        return self.bounds.upper

    @property
    def levels(self) -> int | None:
        """L of a quantised activation, which saturates at its trained θ; or None."""
        return self.bounds.levels

    @property
    def rounding(self) -> Rounding:
        """How a quantised activation rounds."""
        return self.bounds.rounding

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return self.shape[0]

    @property
    def neurons(self) -> int:
        """Number of neurons for one image."""
        product = 1
        for size in self.shape:
            product *= size
        return product


def site_table(graph: Graph) -> tuple[Site, ...]:
    """All sites of a graph in execution order."""
    sources: dict[str, frozenset[str]] = {}  # node -> the sites its value comes from
    previous: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        arriving = frozenset().union(*(sources[name] for name in node.inputs))
        if node.operation == "site":
            previous[node.name] = arriving
        sources[node.name] = frozenset({node.name}) if node.operation == "site" else arriving
    order = {node.name: i for i, node in enumerate(graph.sites)}
    following: dict[str, list[str]] = {name: [] for name in order}
    for name, arriving in previous.items():
        for source in arriving:
            following[source].append(name)
    return tuple(
        Site(
            node.name,
            order[node.name],
            node.shape,
            bounds(node),
            tuple(sorted(previous[node.name], key=order.__getitem__)),
            tuple(following[node.name]),
            node.origin,
        )
        for node in graph.sites
    )


def bounds(node: Node) -> Bounds:
    """Between which values the activation of a site lies."""
    attributes = dict(node.attributes)
    return ACTIVATIONS[attributes.pop("activation")].bounds(**attributes)


def split_at_sites(graph: Graph) -> tuple[list[Node], list[Node], list[Node]]:
    """Nodes before any site, between sites, and after the last ones (the readout), each in execution order."""
    spiking: set[str] = set()  # downstream of some site
    for node in graph.nodes:
        if node.operation == "site" or any(name in spiking for name in node.inputs):
            spiking.add(node.name)
    leads_to_site: set[str] = set()
    for node in reversed(graph.nodes):
        if node.operation in ("site", "max_pool") or node.name in leads_to_site:
            leads_to_site.add(node.name)
            leads_to_site.update(node.inputs)
    before = [n for n in graph.nodes if n.name not in spiking]
    between = [n for n in graph.nodes if n.name in spiking and n.name in leads_to_site]
    readout = [n for n in graph.nodes if n.name in spiking and n.name not in leads_to_site]
    return before, between, readout
