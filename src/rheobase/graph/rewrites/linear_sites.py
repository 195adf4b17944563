"""Sites at linear outputs: every weighted layer but the first then receives spikes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rheobase.core.checks import check_choice
from rheobase.core.errors import RecipeError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext
from rheobase.graph.operations.attention import Attention, Product
from rheobase.graph.operations.numbers import OnNumbers
from rheobase.graph.operations.weighted import Weighted
from rheobase.graph.rewrites.channels import channels_first
from rheobase.graph.trace.call import Note
from rheobase.graph.trace.nonlinear import on_numbers

Sites = Literal["activations", "all", "products"]
"""Where neurons are placed: at activations only; also at what another weighted layer reads; also at what a product of
two activations reads, such as attention."""


def place_sites(graph: Graph, sites: Sites, *, at_image: bool = False) -> tuple[Graph, list[Note]]:
    """The graph with or without sites at linear outputs, whichever it had before, and a note for each change.

    With ``at_image`` the image itself is a site, which all its readers read.

    Raises:
        RecipeError: if ``sites`` is another value, or ``"all"`` changes nothing.
    """
    check_choice(sites, Sites, "sites")
    graph = remove_linear_sites(graph)
    coded: list[Note] = []
    if at_image:
        graph, coded = _fire(graph, {graph.nodes[0].name: "is coded in spikes"})
    if sites == "activations":
        if not graph.sites:
            reason = "is 'activations', but the network has none that can become a layer of neurons"
            remedy = 'use "all": what a weighted layer reads becomes spikes'
            raise RecipeError(reason, where="sites", remedy=remedy)
        return graph, coded
    before = graph
    graph, notes = add_linear_sites(graph, products=sites == "products")
    if not notes or (sites == "products" and len(notes) == len(add_linear_sites(before)[1])):
        reads = "no weighted layer reads a linear output" if not notes else "no product reads a linear output"
        reason = f"is {sites!r}, which changes nothing: {reads}"
        raise RecipeError(reason, where="sites", remedy='leave it out, or use "activations" or "all"')
    return graph, [*coded, *notes]


def add_linear_sites(graph: Graph, *, products: bool = False) -> tuple[Graph, list[Note]]:
    """Insert a site with the activation ``identity`` at every linear output that a weighted operation reads.

    On the way back from the reader, the site is placed at the first sum, weighted operation (with its batch
    normalisation) or node on numbers, so before pooling, reshaping and constant factors: a residual sum fires once,
    after its additions. With ``products`` the products of two activations read spikes too. All readers of that value
    then read its spikes. Weighted operations that read only the image remain as they are, and so does the output of the
    last weighted operation. The function of the analog network does not change.

    Args:
        graph: batch normalisation folded or not.

    Returns:
        The graph, unchanged if every weighted operation already reads spikes or the image, and a note for each site.
    """
    fired: set[str] = set()
    while found := _next_to_fire(graph, fired, products):
        fired |= found
    if not fired:
        return graph, []
    reader = "weighted layer or a product" if products else "weighted layer"
    numbers = {node.name for node in on_numbers(graph.nodes)}
    reasons = {name: "is computed on numbers" if name in numbers else "is linear" for name in fired}
    written = {name: f"{reason} and read by a {reader}: a site with signed spikes" for name, reason in reasons.items()}
    graph, notes = _fire(graph, written)
    graph, moved = channels_first(graph)
    return graph, [*notes, *moved]


def _fire(graph: Graph, fired: Mapping[str, str]) -> tuple[Graph, list[Note]]:
    """The graph with a site of the activation ``identity`` after each of the given nodes, with the reasons as notes."""
    nodes: list[Node] = []
    notes: list[Note] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        nodes.append(replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)))
        if node.name in fired:
            # named like the operation into which batch normalisation folds, so that folding keeps the name
            owner = node.inputs[0] if node.operation == "batch_norm" else node.name
            site, origin = f"{owner}.output", f"output of {node.origin or node.name}"
            nodes.append(Node(site, "site", (node.name,), {"activation": "identity"}, {}, node.shape, origin))
            notes.append(Note(origin, fired[node.name]))
            renamed[node.name] = site
    return graph.replace(nodes=nodes), notes


def remove_linear_sites(graph: Graph) -> Graph:
    """Undo :func:`add_linear_sites`."""
    sites = [node.name for node in graph.sites if node.attributes["activation"] == "identity"]
    added = {f"{site}{suffix}" for site in sites for suffix in ("", ".channels_first", ".channels_back")}
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        if node.name in added:
            (renamed[node.name],) = inputs
        else:
            nodes.append(replace(node, inputs=inputs))
    return graph.replace(nodes=nodes)


Kind = Literal["constant", "image", "spikes", "sums", "currents"]
"""Independent of the image; computed from it without weights; spikes; sums of several neurons' spikes; any other."""


@dataclass(frozen=True)
class _Value:
    """The kind of a node's value, and the nodes that must fire before it consists of spikes only."""

    kind: Kind
    pending: frozenset[str] = frozenset()


def _next_to_fire(graph: Graph, fired: set[str], products: bool) -> frozenset[str]:
    """The nodes that must fire for the first weighted operation that does not read spikes yet; empty if all do."""
    by_name, tensors, users = {node.name: node for node in graph.nodes}, graph.tensors, graph.users()
    values: dict[str, _Value] = {}
    for node in graph.nodes:
        read = [values[name] for name in node.inputs]
        operation = OPERATIONS.get(node.operation)
        how: str | None = node.operation
        if isinstance(operation, OnNumbers):
            how = None
        elif operation is not None and operation.affine:
            how = operation.synapses(NodeContext.of(node, by_name, tensors))
        if how == "weights" and read[0].kind == "currents":
            return read[0].pending
        if products and isinstance(operation, Product | Attention):
            wanted = frozenset().union(*(value.pending for value in read if value.kind == "currents"))
            if wanted:
                return wanted
        if node.operation == "batch_norm" and _folds(by_name[node.inputs[0]], users):
            how = "weights"
        values[node.name] = _Value("spikes") if node.name in fired else _value(node, how, read)
    return frozenset()


def _folds(before: Node, users: Mapping[str, list[Node]]) -> bool:
    """True if batch normalisation after this node becomes part of it."""
    return isinstance(OPERATIONS.get(before.operation), Weighted) and len(users[before.name]) == 1


def _value(node: Node, how: str | None, read: Sequence[_Value]) -> _Value:
    """The value of a node that does not fire, given how it combines its inputs (or its name if it is not affine)."""
    itself = frozenset({node.name})
    kinds = {value.kind for value in read} - {"constant"}
    if how == "site":
        return _Value("spikes")
    if how == "input":
        return _Value("image", itself)
    if node.operation == "constant" or not kinds:
        return _Value("constant")
    if kinds == {"image"} and how != "weights":
        return _Value("image", itself)
    if how == "max_pool" and "sums" in kinds:  # the maximum of sums of spikes is not a spike
        return _Value("currents", frozenset(node.inputs))
    if how in ("weights", None) or (how == "add" and not kinds <= {"spikes", "sums"}):
        return _Value("currents", itself)
    if kinds <= {"spikes", "sums"}:
        return _Value("spikes" if kinds == {"spikes"} and how in ("route", "scale", "max_pool") else "sums")
    return _Value("currents", frozenset().union(*(value.pending for value in read)))
