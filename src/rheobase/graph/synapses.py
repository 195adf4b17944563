"""How many operations a graph takes, read from its structure: products, additions, and where each spike goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS

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
        if node.operation in ("site", "max_pool"):
            return self._nonlinear(node, inputs[0])
        if node.operation in ("conv", "conv_transpose", "linear"):
            return self._weighted(node, inputs[0])
        if node.operation in ("avg_pool", "adaptive_avg_pool", "mean", "upsample"):
            return self._spread(node, inputs[0])
        if node.operation in ("affine", "batch_norm"):
            return self._scaled(node, inputs[0])
        if node.operation in ("add", "concat"):
            return self._joined(node, inputs)
        attributes = dict(node.attributes)
        if node.operation == "pad":
            attributes["value"] = 0.0 if attributes["mode"] == "constant" else None
        return _Edge(inputs[0].kind, OPERATIONS[node.operation](inputs[0].entries, **attributes))

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

    def _weighted(self, node: Node, edge: _Edge) -> _Edge:
        weight = self.graph.tensor(node.parameters["weight"])
        products = _apply(node, edge.entries, (weight != 0).to(edge.entries.dtype))
        if edge.kind in EVENTS:
            self._arrive(node, products)
        else:
            self.work[node.name].macs += _whole(products)
        if node.operation == "conv_transpose":  # every place of the input meets all weights, else every output its own
            self.work[node.name].padded = edge.entries[0, 0].numel() * weight.numel()
        else:
            self.work[node.name].padded = products[0].numel() * prod(weight.shape[1:])
        return self._fresh(node, "currents")

    def _spread(self, node: Node, edge: _Edge) -> _Edge:
        """Each element enters the windows, or pixels, that read it; the factor is part of the weights after it."""
        if node.operation == "upsample" and node.attributes["mode"] == "nearest":
            return _Edge(edge.kind, OPERATIONS["upsample"](edge.entries, **node.attributes))
        entries = _windows(node, edge.entries)
        if edge.kind in EVENTS:
            return _Edge("sums", entries)
        if node.operation == "upsample":
            self.work[node.name].macs += _whole(entries)
        else:
            self.work[node.name].acs += _whole(entries)
        return self._fresh(node, "currents")

    def _scaled(self, node: Node, edge: _Edge) -> _Edge:
        if edge.kind in EVENTS:
            return edge  # as above
        if node.operation == "batch_norm" or "scale" in node.parameters:
            self.work[node.name].macs += prod(node.shape)
            return self._fresh(node, "currents")
        return edge

    def _joined(self, node: Node, inputs: list[_Edge]) -> _Edge:
        kinds = {edge.kind for edge in inputs} - {"constant"}
        adding = node.operation == "add"
        if kinds <= set(EVENTS):
            kind: Kind = "spikes" if kinds == {"spikes"} and (not adding or len(inputs) == 1) else "sums"
        elif kinds == {"values"} and not adding:
            kind = "values"
        else:
            kind = "currents"
            for edge in inputs:
                if edge.kind in EVENTS:  # into the sum, or the memory, that the others make
                    self._arrive(node, edge.entries)
        if adding and kind == "currents":
            terms = [edge for edge in inputs if edge.kind == "values"]
            first = 1 if kinds == {"values"} else 0
            self.work[node.name].acs += prod(node.shape) * (len(terms) - first)
            return self._fresh(node, kind)
        parts = [torch.ones_like(e.entries) if kind == "currents" and e.kind in EVENTS else e.entries for e in inputs]
        return _Edge(kind, OPERATIONS[node.operation](*parts, **node.attributes))

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


def _whole(entries: Tensor) -> int:
    # each is a whole number; a kernel may have found it by a transform that rounds
    return int(entries.detach().double().round().sum())


def _apply(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    if node.operation == "linear":
        return F.linear(x, weight)
    a = node.attributes
    if node.operation == "conv":
        convolve = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        return convolve(x, weight, None, a["stride"], a["padding"], a["dilation"], a["groups"])
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
    return transposed(x, weight, None, a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"])


def _windows(node: Node, x: Tensor) -> Tensor:
    """Sums over the windows of a pooling or interpolation with every factor 1."""
    if node.operation == "mean":
        return x.sum(node.attributes["dim"], node.attributes["keepdim"])
    # all of them are products of one-dimensional ones
    dims = len(node.attributes.get("kernel_size", node.attributes.get("output_size", node.attributes.get("size"))))
    for d in range(dims):
        axis = x.dim() - dims + d
        matrix = _one_dimensional(node, d, x.shape[axis]).to(x)
        x = torch.tensordot(x, matrix, dims=([axis], [0])).movedim(-1, axis)
    return x


def _one_dimensional(node: Node, d: int, length: int) -> Tensor:
    """Which positions [length] enter which windows [places] along one axis, 0 or 1."""
    one = torch.eye(length)[:, None]
    a = node.attributes
    if node.operation == "adaptive_avg_pool":
        found = F.adaptive_avg_pool1d(one, a["output_size"][d])
    elif node.operation == "avg_pool":
        kernel, stride = a["kernel_size"][d], (a["stride"] or a["kernel_size"])[d]
        found = F.avg_pool1d(one, kernel, stride, a["padding"][d], a.get("ceil_mode", False))
    else:
        found = F.interpolate(one, size=a["size"][d], mode="linear", align_corners=a["align_corners"])
    return (found[:, 0] != 0).float()
