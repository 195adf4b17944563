"""How many operations a graph takes, read from its structure: products, additions, and where each spike goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor

from rheobase.core.errors import ModelError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext, Operation, Synapses

Kind = Literal["spikes", "sums", "values", "currents", "constant"]
"""What flows on an edge:

- ``spikes``: 0 or one number a neuron;
- ``sums`` of spikes whose factors are known beforehand (pooled, added): they travel on one by one;
- ``values`` that are there already: the image, an analog activation;
- ``currents``: sums made where they are needed, so that one more sum into the same place takes no addition of its own;
- ``constant``: known before the image, like a bias.
"""
EVENTS: tuple[Kind, ...] = ("spikes", "sums")


@dataclass
class Work:
    """Operations of a node, for one image or one step of a train.

    Attributes:
        macs: multiply-accumulates. A zero of a padding and a weight that is zero take none.
        acs: additions that do not depend on spikes.
        reach: source of spikes -> the additions that one spike of each of its neurons makes here, [C, ...], float64.
        padded: products as they are usually stated, with zeros of padding and weights.
    """

    macs: int = 0
    acs: int = 0
    reach: dict[str, Tensor] = field(default_factory=dict)
    padded: int = 0


@dataclass(frozen=True)
class _Edge:
    """A node's value: its kind, and how often each source's elements enter each of its elements, [1, ...]."""

    kind: Kind
    entries: Tensor


class WorkCounter:
    """Goes through a graph once and counts the operations of every node.

    Args:
        graph: the network.
        spiking: whether sites emit spikes, else analog values.

    Attributes:
        work: node -> its operations.
        sources: where spikes come from: sites, and max-pooling of spikes, which lets one of them through.
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
            if edges[graph.output].kind in EVENTS:  # nothing weighs them: the answer is their sum
                self._arrive(graph.nodes[-1], edges[graph.output].entries)
        self.sources = tuple(self._leaves)

    def _count(self, node: Node, inputs: list[_Edge]) -> _Edge:
        if node.operation == "input":
            return self._fresh(node, "values")
        if all(edge.kind == "constant" for edge in inputs):
            return _Edge("constant", torch.zeros(1, *node.shape, device=self.graph.device))
        operation = OPERATIONS.get(node.operation)
        if operation is None or not operation.affine:
            return self._nonlinear(node, inputs[0])
        at = NodeContext.of(node, self._nodes, self._tensors)
        match operation.synapses(at):
            case "weights":
                return self._weighted(at, operation, inputs)
            case "sum" | "interpolate" as how:
                return self._spread(at, operation, inputs, how)
            case "scale":
                return self._scaled(at, operation, inputs)
            case "route" | "add" as how:
                return self._joined(at, operation, inputs, how)
            case other:
                raise ModelError(
                    f"is the operation {operation.name}, whose synapses are {other!r}: its work cannot be counted",
                    where=node.name,
                    remedy=f"define {type(operation).__name__}.synapses as one of {', '.join(get_args(Synapses))}",
                )

    def _fresh(self, node: Node, kind: Kind) -> _Edge:
        return _Edge(kind, torch.ones(1, *node.shape, device=self.graph.device))

    def _nonlinear(self, node: Node, edge: _Edge) -> _Edge:
        if node.operation == "site" and edge.kind in EVENTS:
            self._arrive(node, edge.entries)  # straight into a potential
        if not self.spiking or (node.operation == "max_pool" and edge.kind != "spikes"):
            return self._fresh(node, "values")
        leaf = torch.zeros(1, *node.shape, device=self.graph.device, requires_grad=True)
        self._leaves[node.name] = leaf
        return _Edge("spikes", leaf)

    def _weighted(self, at: NodeContext, operation: Operation, inputs: list[_Edge]) -> _Edge:
        products = _entries(at, operation, inputs)
        work = self.work[at.node.name]
        if all(edge.kind in EVENTS for edge in inputs):
            self._arrive(at.node, products)
        else:
            work.macs += _whole(products)
        dense = operation.dense_products(at)
        work.padded = _whole(products) if dense is None else dense
        return self._fresh(at.node, "currents")

    def _spread(self, at: NodeContext, operation: Operation, inputs: list[_Edge], how: Synapses) -> _Edge:
        """Each element enters the windows, or pixels, that read it; the factor is part of the weights after it."""
        entries = _entries(at, operation, inputs)
        if inputs[0].kind in EVENTS:
            return _Edge("sums", entries)
        if how == "interpolate":
            self.work[at.node.name].macs += _whole(entries)
        else:
            self.work[at.node.name].acs += _whole(entries)
        return self._fresh(at.node, "currents")

    def _scaled(self, at: NodeContext, operation: Operation, inputs: list[_Edge]) -> _Edge:
        if inputs[0].kind in EVENTS:
            return _Edge(inputs[0].kind, _entries(at, operation, inputs))  # as above
        self.work[at.node.name].macs += prod(at.shape)
        return self._fresh(at.node, "currents")

    def _joined(self, at: NodeContext, operation: Operation, inputs: list[_Edge], how: Synapses) -> _Edge:
        kinds = {edge.kind for edge in inputs} - {"constant"}
        adding = how == "add"
        if kinds <= set(EVENTS):
            kind: Kind = "spikes" if kinds == {"spikes"} and (not adding or len(inputs) == 1) else "sums"
        elif kinds == {"values"} and not adding:
            kind = "values"
        else:
            kind = "currents"
            for edge in inputs:
                if edge.kind in EVENTS:  # into the sum, or the memory, that the others make
                    self._arrive(at.node, edge.entries)
        if adding and kind == "currents":
            terms = [edge for edge in inputs if edge.kind == "values"]
            first = 1 if kinds == {"values"} else 0
            self.work[at.node.name].acs += prod(at.shape) * (len(terms) - first)
            return self._fresh(at.node, kind)
        if kind == "currents":
            inputs = [_Edge(e.kind, torch.ones_like(e.entries) if e.kind in EVENTS else e.entries) for e in inputs]
        return _Edge(kind, _entries(at, operation, inputs))

    def _arrive(self, node: Node, entries: Tensor) -> None:
        """Every spike makes as many additions here as it has entries."""
        names = list(self._leaves)
        found = torch.autograd.grad(
            entries.sum(), [self._leaves[name] for name in names], retain_graph=True, allow_unused=True
        )
        reach = self.work[node.name].reach
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                whole = gradient[0].detach().double().round()
                reach[name] = reach[name] + whole if name in reach else whole


def _entries(at: NodeContext, operation: Operation, inputs: list[_Edge]) -> Tensor:
    return operation.entries(*(edge.entries for edge in inputs), **at.attributes, **at.parameters)


def _whole(entries: Tensor) -> int:
    # each is a whole number; a kernel may have found it by a transform that rounds
    return int(entries.detach().double().round().sum())
