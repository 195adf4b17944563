"""Lowering of a graph to NIR nodes.

NIR has convolutions, affine maps, sum pooling, flattening, and edges that add up. All other operations are expressed
by these: a slice, a padding, a concatenation, a channel shuffle or a per-channel factor is a 1x1 convolution with
mostly zeros. Forms that NIR's type check or the simulators misread are avoided: grouped convolutions and non-square
kernels are filled with zeros, linear layers are written as ``Affine``, pooling as ``SumPool2d`` with the division in
the following weights, and the axes of ``Flatten`` are counted from the last. All of this is exact in real arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.core.errors import StoreError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NotExpressible, Value

_PARTIAL = "replace the operation before conversion, or save the network as a folder: rb.save(snn, ...)"


@contextmanager
def refused(node: Node) -> Iterator[None]:
    """Convert :class:`NotExpressible` to a StoreError that names the node."""
    try:
        yield
    except NotExpressible as cause:
        called = node.origin if node.origin and not node.origin.startswith("the network") else node.name
        raise StoreError(f"{cause}, for which NIR has no node", where=called, remedy=_PARTIAL) from None


class Lowering:
    """NIR nodes and edges of a graph; operations write them by the words of :class:`rheobase.graph.operations.Words`.

    Args:
        graph: graph with sum pooling only (:func:`rheobase.graph.rewrites.sum_pool.sum_pools`).
        thresholds: θ of every site, [] or [C].
        nir: the package.

    Attributes:
        nodes: the NIR nodes by name.
        edges: pairs of names.
        names: node of the graph -> its NIR node, for convolutions, linear layers and sites.
    """

    def __init__(self, graph: Graph, thresholds: dict[str, Tensor], nir: Any) -> None:
        self.graph, self.thresholds, self.nir = graph, thresholds, nir
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.names: dict[str, str] = {}
        self.values: dict[str, Value] = {}
        self.dtype = next((t.dtype for t in graph.tensors.values() if t.is_floating_point()), torch.float32)
        for node in graph.nodes:
            with refused(node):
                value = self.value(node)
            assert (value.view or value.shape) == node.shape, f"{node.name}: {value} for {node.shape}"
            self.values[node.name] = value
        if view := self.values[graph.output].view:
            with refused(graph.nodes[-1]):
                raise NotExpressible(f"gives the shape {list(view)}")
        output = self._plain(graph.output)
        self.nodes["output"] = self.nir.Output(output_type={"output": np.array(output.shape)})
        self.edges += [(source, "output") for source in output.sources]

    def value(self, node: Node) -> Value:
        """Write a node of the graph as NIR nodes."""
        if node.operation == "input":
            self.nodes["input"] = self.nir.Input(input_type={"input": np.array(node.shape)})
            return Value(("input",), node.shape)
        return self.site(node) if node.operation == "site" else OPERATIONS[node.operation].lower(self, node)

    def site(self, node: Node) -> Value:
        """Write an IF node."""
        theta = self.thresholds[node.name].cpu()
        if theta.dim():
            theta = theta.reshape(-1, *(1,) * (len(node.shape) - 1))
        ones = self.array(torch.ones(node.shape))
        fire = self.nir.IF(r=ones, v_threshold=self.array(theta.expand(node.shape)))
        return self.named(node, fire, self.plain(node))

    # -- nodes ---------------------------------------------------------------------------------------------------

    def put(self, name: str, node: Any, sources: Sequence[str], shape: tuple[int, ...]) -> Value:
        """Add a NIR node that reads the sum of ``sources``."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        base = f"n{base}" if base[0].isdigit() else base
        numbered = (base if n == 1 else f"{base}_{n}" for n in count(1))
        unique = next(found for found in numbered if found not in {*self.nodes, "input", "output"})
        self.nodes[unique] = node
        self.edges += [(source, unique) for source in sources]
        return Value((unique,), shape)

    def named(self, node: Node, made: Any, value: Value) -> Value:
        """Add the NIR node of a node of the graph."""
        result = self.put(node.name, made, value.sources, node.shape)
        self.names[node.name] = result.sources[0]
        return result

    def array(self, tensor: Tensor) -> Any:
        """Return a tensor as NumPy array, in the network's dtype."""
        return tensor.detach().to(self.dtype).cpu().contiguous().numpy()

    def conv(self, weight: Tensor, bias: Tensor, size: Any, stride: Any, padding: Any, dilation: Any) -> Any:
        """Build Conv1d or Conv2d."""
        kind = self.nir.Conv1d if weight.dim() == 3 else self.nir.Conv2d
        numbers = {"input_shape": size, "stride": stride, "padding": padding, "dilation": dilation}
        made: dict[str, Any] = {name: tuple(map(int, given)) for name, given in numbers.items()}
        if weight.dim() == 3:
            made = {name: number for name, (number,) in made.items()}
        return kind(**made, weight=self.array(weight), bias=self.array(bias), groups=1)

    def weight_and_bias(self, node: Node) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a node; a missing bias is zeros, because simulators require one."""
        weight, bias = self.parameter(node, "weight"), self.parameter(node, "bias")
        assert weight is not None
        return weight, torch.zeros(weight.shape[0]) if bias is None else bias

    # -- words of the operations -----------------------------------------------------------------------------------

    def seen(self, node: Node, i: int = 0) -> Value:
        """Return an input, whose channels may be split into several axes."""
        return self.values[node.inputs[i]]

    def plain(self, node: Node, i: int = 0) -> Value:
        """Return an input without a map: a pending map is written first."""
        self._check_whole(node)
        return self._plain(node.inputs[i])

    def mapped(self, node: Node, i: int = 0) -> Value:
        """Return an input with a map of channels."""
        self._check_whole(node)
        return self.seen(node, i).mapped()

    def _plain(self, name: str) -> Value:
        value = self.values[name]
        if value.matrix is not None:
            value = self.values[name] = self.write(f"{name}_map", value)
        return value

    def _check_whole(self, node: Node) -> None:
        inputs = [self.values[name] for name in node.inputs]
        if any(value.view for value in inputs):
            raise NotExpressible(f"reads the shape {[list(value.view or value.shape) for value in inputs]}")

    def parameter(self, node: Node, argument: str) -> Tensor | None:
        """Return a parameter of a node, or None."""
        return self.graph.tensor(node.parameters[argument]) if argument in node.parameters else None

    def write(self, name: str, value: Value, padding: Sequence[int] | None = None) -> Value:
        """Write a map of channels as a 1x1 convolution, or as an affine node without spatial axes."""
        assert value.matrix is not None
        bias = torch.zeros(len(value.matrix)) if value.shift is None else value.shift
        axes = len(value.shape) - 1
        if axes == 0:
            node = self.nir.Affine(weight=self.array(value.matrix), bias=self.array(bias))
        else:
            weight = value.matrix.reshape(*value.matrix.shape, *(1,) * axes)
            before = self.nodes[value.sources[0]].output_type["output"][1:]
            node = self.conv(weight, bias, before, value.stride, padding or (0,) * axes, (1,) * axes)
        return self.put(name, node, value.sources, value.shape)

    def convolution(self, node: Node) -> Value:
        """Write Conv1d or Conv2d, in one group and with a square kernel."""
        value, a = self.plain(node), node.attributes
        if len(node.shape) not in (2, 3):
            raise NotExpressible(f"is a convolution in {len(node.shape) - 1} dimensions")
        weight, bias = self.weight_and_bias(node)
        weight, padding = _square(_ungrouped(weight, a["groups"]), list(a["padding"]), a["dilation"])
        made = self.conv(weight, bias, value.shape[1:], a["stride"], padding, a["dilation"])
        return self.named(node, made, value)

    def affine(self, node: Node) -> Value:
        """Write Affine, for vectors."""
        value = self.plain(node)
        if len(node.shape) != 1:
            raise NotExpressible("is a linear layer over one of several axes")
        weight, bias = self.weight_and_bias(node)
        return self.named(node, self.nir.Affine(weight=self.array(weight), bias=self.array(bias)), value)

    def sum_pool(self, node: Node) -> Value:
        """Write SumPool2d, or a convolution in one dimension."""
        value, a = self.plain(node), node.attributes
        kernel, stride, padding = (np.array(a[name]) for name in ("kernel_size", "stride", "padding"))
        if len(kernel) == 1:
            weight = torch.eye(node.shape[0]).unsqueeze(-1).expand(-1, -1, kernel[0])
            made = self.conv(weight, torch.zeros(node.shape[0]), value.shape[1:], stride, padding, (1,))
        elif len(kernel) == 2:
            made = self.nir.SumPool2d(kernel_size=kernel, stride=stride, padding=padding)
            made.input_type, made.output_type = {"input": np.array(value.shape)}, {"output": np.array(node.shape)}
        else:
            raise NotExpressible(f"is pooling in {len(kernel)} dimensions")
        return self.put(node.name, made, value.sources, node.shape)

    def flatten(self, node: Node) -> Value:
        """Write Flatten, with axes counted from the last."""
        value = self.plain(node)
        made = self.nir.Flatten(input_type={"input": np.array(value.shape)}, start_dim=-len(value.shape), end_dim=-1)
        return self.put(node.name, made, value.sources, node.shape)

    def sum(self, node: Node) -> Value:
        """Return the sum of all inputs: edges into the next node."""
        sources: list[str] = []
        for i in range(len(node.inputs)):
            value = self.plain(node, i)
            if set(value.sources) & set(sources):  # NIR has at most one edge between two nodes
                value = self.write(f"{node.name}_{i}", value.mapped())
            sources += value.sources
        return Value(tuple(sources), node.shape)


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The weight of the same convolution in one group: [out, in, ...] with zeros between the groups."""
    out, into, *kernel = weight.shape
    inside = torch.eye(groups, dtype=torch.bool, device=weight.device)
    inside = inside.repeat_interleave(out // groups, 0).repeat_interleave(into, 1)
    ones = [1 for _ in kernel]
    return torch.where(inside.reshape(out, -1, *ones), weight.repeat(1, groups, *ones), 0.0)


def _square(weight: Tensor, padding: list[int], dilation: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Pad a kernel to a square with zeros, because NIR computes both output sizes from the first kernel size."""
    sizes = weight.shape[2:]
    largest = max(sizes)
    if any((largest - n) % 2 for n in sizes):
        raise NotExpressible(f"has a kernel of {list(sizes)}, which cannot be centred in a square one")
    sides = [(largest - n) // 2 for n in sizes]
    amounts = [side for side in reversed(sides) for _ in (0, 1)]
    padding = [p + side * d for p, side, d in zip(padding, sides, dilation, strict=True)]
    return torch.nn.functional.pad(weight, amounts), padding
