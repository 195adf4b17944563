"""Count the operations of a graph from its structure: products, additions, and the fan-out of each spike."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor

from rheobase.core.errors import ModelError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext, OnNumbers, Operation, Synapses

Kind = Literal["spikes", "sums", "values", "currents", "constant"]
"""Kind of the value on an edge:

- ``spikes`` of neurons;
- ``sums`` of spikes with constant factors (pooled or added), which are transmitted as separate spikes;
- ``values`` that are stored: the image, an analog activation;
- ``currents``: sums that are accumulated in place, so that another term in the same sum takes no separate addition;
- ``constant``: independent of the image, like a bias.
"""
EVENTS: tuple[Kind, ...] = ("spikes", "sums")


@dataclass
class Work:
    """Operations of a node, for one image or one time-step.

    Attributes:
        macs: multiply-accumulates, without those for zeros of padding and zero weights.
        acs: additions that do not depend on spikes.
        numbers: elementary operations of a node on numbers, each time that it computes.
        differences: the same of its running means and of its output, each time-step.
        reach: source of spikes -> number of additions at this node per spike of each neuron, [C, ...], float64.
        padded: products as papers usually state them, including zeros of padding and weights.
    """

    macs: int = 0
    acs: int = 0
    numbers: int = 0
    differences: int = 0
    reach: dict[str, Tensor] = field(default_factory=dict)
    padded: int = 0


@dataclass(frozen=True)
class _Edge:
    """A node's value: its kind, and the number of entries in each of its elements, [1, ...], differentiable.

    The gradient with respect to a source is the number of elements that each neuron of the source enters.
    """

    kind: Kind
    entries: Tensor


class WorkCounter:
    """Counts the operations of every node of a graph.

    Args:
        graph: the network.
        spiking: True if sites emit spikes, False for analog values.

    Attributes:
        work: node -> its operations.
        sources: nodes that emit spikes: sites, and max-pooling of spikes.
    """

    def __init__(self, graph: Graph, *, spiking: bool) -> None:
        self.graph, self.spiking = graph, spiking
        self.work: dict[str, Work] = {}
        self._nodes, self._tensors = {node.name: node for node in graph.nodes}, graph.tensors
        self._leaves: dict[str, Tensor] = {}
        edges: dict[str, _Edge] = {}
        with torch.inference_mode(False), torch.enable_grad():
            for node in graph.nodes:
                self.work[node.name] = Work()
                edges[node.name] = self._count(node, [edges[name] for name in node.inputs])
            if edges[graph.output].kind in EVENTS:  # no weights after the last site: the logits are sums of spikes
                self._arrive(graph.nodes[-1], edges[graph.output].entries)
        self.sources = tuple(self._leaves)

    def _count(self, node: Node, inputs: list[_Edge]) -> _Edge:
        if node.operation == "input":
            return self._fresh(node, "values")
        if node.operation == "constant" or all(edge.kind == "constant" for edge in inputs):
            return _Edge("constant", torch.zeros(1, *node.shape, device=self.graph.device))
        operation = OPERATIONS.get(node.operation)
        if isinstance(operation, OnNumbers):
            return self._on_numbers(NodeContext.of(node, self._nodes, self._tensors), operation, inputs)
        if operation is None or not operation.affine:
            return self._nonlinear(node, inputs[0])
        at = NodeContext.of(node, self._nodes, self._tensors)
        how, work = operation.synapses(at), self.work[node.name]
        if how == "route" or how == "add":
            return self._joined(at, operation, inputs, adding=how == "add")
        if how not in get_args(Synapses):
            raise ModelError(
                f"operation {operation.name} has synapses {how!r}, whose work cannot be counted",
                where=node.name,
                remedy=f"define {type(operation).__name__}.synapses as one of {', '.join(get_args(Synapses))}",
            )
        entries = _entries(at, operation, inputs)
        spikes = all(edge.kind in EVENTS for edge in inputs)
        if how == "weights":
            dense = operation.dense_products(at)
            work.padded = _whole(entries) if dense is None else dense
            if spikes:
                self._arrive(node, entries)
            else:
                work.macs += _whole(entries)
        elif spikes:  # the factor is part of the weights that follow
            return _Edge(inputs[0].kind if how == "scale" else "sums", entries)
        elif how == "sum":
            work.acs += _whole(entries)
        else:
            work.macs += prod(at.shape) if how == "scale" else _whole(entries)
        return self._fresh(node, "currents")

    def _fresh(self, node: Node, kind: Kind) -> _Edge:
        return _Edge(kind, torch.ones(1, *node.shape, device=self.graph.device))

    def _nonlinear(self, node: Node, edge: _Edge) -> _Edge:
        if node.operation == "site" and edge.kind in EVENTS:
            self._arrive(node, edge.entries)  # added to a potential without weights
        if not self.spiking and node.attributes.get("activation") == "identity":
            return edge  # no operation of the analog network
        if not self.spiking or (node.operation == "max_pool" and edge.kind != "spikes"):
            return self._fresh(node, "values")
        leaf = torch.zeros(1, *node.shape, device=self.graph.device, requires_grad=True)
        self._leaves[node.name] = leaf
        return _Edge("spikes", leaf)

    def _on_numbers(self, at: NodeContext, operation: OnNumbers, inputs: list[_Edge]) -> _Edge:
        work = self.work[at.node.name]
        work.numbers = operation.work(at)
        for edge, shape in dict(zip(at.node.inputs, zip(inputs, at.inputs, strict=True), strict=True)).values():
            if edge.kind in EVENTS:
                self._arrive(at.node, edge.entries)  # added to a running mean
            work.differences += prod(shape) * (1 + (edge.kind not in EVENTS))  # sum / t, and the sum
        work.differences += 2 * prod(at.shape)  # times t, less what was given before
        return self._fresh(at.node, "values")

    def _joined(self, at: NodeContext, operation: Operation, inputs: list[_Edge], *, adding: bool) -> _Edge:
        kinds = {edge.kind for edge in inputs} - {"constant"}
        if kinds <= set(EVENTS):
            one = kinds == {"spikes"} and (not adding or len(inputs) == 1)
            return _Edge("spikes" if one else "sums", _entries(at, operation, inputs))
        if kinds == {"values"} and not adding:
            return _Edge("values", _entries(at, operation, inputs))
        for edge in inputs:
            if edge.kind in EVENTS:  # added to the sum, or the memory, of the other inputs
                self._arrive(at.node, edge.entries)
        if adding:
            terms = sum(edge.kind == "values" for edge in inputs)
            self.work[at.node.name].acs += prod(at.shape) * (terms - (kinds == {"values"}))
            return self._fresh(at.node, "currents")
        inputs = [_Edge(e.kind, torch.ones_like(e.entries)) if e.kind in EVENTS else e for e in inputs]
        return _Edge("currents", _entries(at, operation, inputs))

    def _arrive(self, node: Node, entries: Tensor) -> None:
        """Add to ``reach`` one addition per spike and entry."""
        leaves, reach = list(self._leaves.values()), self.work[node.name].reach
        found = torch.autograd.grad(entries.sum(), leaves, retain_graph=True, allow_unused=True)
        for name, gradient in zip(self._leaves, found, strict=True):
            if gradient is not None:
                whole = gradient[0].detach().double().round()
                reach[name] = reach[name] + whole if name in reach else whole


def _entries(at: NodeContext, operation: Operation, inputs: list[_Edge]) -> Tensor:
    return operation.entries(*(edge.entries for edge in inputs), **at.attributes, **at.parameters)


def _whole(entries: Tensor) -> int:
    # each entry is a whole number; a kernel that uses a transform may return it with a rounding error
    return int(entries.detach().double().round().sum())
