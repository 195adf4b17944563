"""The sites of a graph, and the split of its nodes into those before, between and after the sites."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from rheobase.activations import ACTIVATIONS, Bounds
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node


@dataclass(frozen=True, kw_only=True)
class Site(Bounds):
    """One call of an activation in the network, which becomes one layer of neurons; with the bounds of the activation.

    Attributes:
        name: unique; the path of the module if the activation is a module (``layer1.0.relu:2``: its second call).
        index: position in execution order.
        shape: shape of one sample, [C, ...]; the first axis is always the channels.
        previous: sites whose output this site reads through affine operations; empty if it reads the network's input
            only.
        next: sites that read the output of this site through affine operations; empty if only the readout does.
        origin: its place in the user's network, for messages.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    previous: tuple[str, ...]
    next: tuple[str, ...]
    origin: str

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return self.shape[0]

    @property
    def neurons(self) -> int:
        """Number of neurons for one image."""
        return prod(self.shape)


def site_table(graph: Graph) -> tuple[Site, ...]:
    """All sites of a graph in execution order."""
    order = {node.name: i for i, node in enumerate(graph.sites)}
    sources: dict[str, set[str]] = {}  # node -> the sites that its value depends on
    previous: dict[str, set[str]] = {}
    for node in graph.nodes:
        arriving = set().union(*(sources[name] for name in node.inputs))
        if node.operation == "site":
            previous[node.name] = arriving
        sources[node.name] = {node.name} if node.operation == "site" else arriving
    sites = []
    for node in graph.sites:
        found: dict[str, Any] = {**vars(bounds(node)), "name": node.name, "shape": node.shape, "origin": node.origin}
        found["previous"] = tuple(sorted(previous[node.name], key=order.__getitem__))
        found["next"] = tuple(name for name in order if node.name in previous[name])
        sites.append(Site(index=order[node.name], **found))
    return tuple(sites)


def bounds(node: Node) -> Bounds:
    """Range and quantisation of the activation of a site."""
    attributes = dict(node.attributes)
    return ACTIVATIONS[attributes.pop("activation")].bounds(**attributes)


def split_at_sites(graph: Graph) -> tuple[list[Node], list[Node], list[Node]]:
    """Nodes before any site, between sites, and after the last ones (the readout), each in execution order."""
    spiking: set[str] = set()  # sites, and nodes that depend on one
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
