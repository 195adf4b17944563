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
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import StoreError
from rheobase.exchange.nir.package import require_nir
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext, NotExpressible, Value
from rheobase.graph.operations.windows import MeanPool

_PARTIAL = "replace the operation before conversion, or save the network as a folder: rb.save(snn, ...)"


def sum_pools(graph: Graph) -> tuple[Graph, dict[str, Tensor]]:
    """Replace mean pooling by sum pooling (``divisor_override=1``); return the graph and the missing factors."""
    nodes, factors = [], {}
    by_name = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        operation = OPERATIONS.get(node.operation)
        if not isinstance(operation, MeanPool):
            nodes.append(node)
            continue
        with _refused(node):
            kernel, stride, padding, divisor = operation.window(NodeContext.of(node, by_name, graph.tensors))
        attributes = {"kernel_size": kernel, "stride": stride, "padding": padding, "divisor_override": 1}
        flat = len(node.shape) == 1  # the spatial axes are reduced
        shape = (node.shape[0], *(1 for _ in kernel)) if flat else node.shape
        name = f"{node.name}.sum" if flat else node.name
        nodes.append(Node(name, "avg_pool", node.inputs, attributes, {}, shape, node.origin))
        if flat:
            nodes.append(Node(node.name, "reshape", (name,), {"shape": list(node.shape)}, {}, node.shape, node.origin))
        factors[name] = torch.tensor(1 / divisor, dtype=torch.float64, device=graph.device)
    return graph.replace(nodes=nodes), factors


@contextmanager
def _refused(node: Node) -> Iterator[None]:
    """Convert :class:`NotExpressible` to a StoreError that names the node."""
    try:
        yield
    except NotExpressible as cause:
        called = node.origin if node.origin and not node.origin.startswith("the network") else node.name
        raise StoreError(f"{cause}, for which NIR has no node", where=called, remedy=_PARTIAL) from None


class Lowering:
    """NIR nodes and edges of a graph.

    Args:
        graph: graph with sum pooling only (:func:`sum_pools`).
        thresholds: θ of every site, [] or [C].

    Attributes:
        nodes: the NIR nodes by name.
        edges: pairs of names.
        names: node of the graph -> its NIR node, for convolutions, linear layers and sites.
    """

    def __init__(self, graph: Graph, thresholds: dict[str, Tensor]) -> None:
        self.graph, self.thresholds, self.nir = graph, thresholds, require_nir()
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.names: dict[str, str] = {}
        self.values: dict[str, Value] = {}
        self.dtype = next((t.dtype for t in graph.tensors.values() if t.is_floating_point()), torch.float32)
        for node in graph.nodes:
            with _refused(node):
                value = self.value(node)
            assert (value.view or value.shape) == node.shape, f"{node.name}: {value} for {node.shape}"
            self.values[node.name] = value
        with _refused(graph.nodes[-1]):
            if self.values[graph.output].view:
                raise NotExpressible(f"gives the shape {list(self.values[graph.output].view)}")
        output = self._plain(graph.output)
        self.nodes["output"] = self.nir.Output(output_type={"output": np_shape(output.shape)})
        self.edges += [(source, "output") for source in output.sources]

    def value(self, node: Node) -> Value:
        """Write a node of the graph as NIR nodes."""
        if node.operation == "input":
            self.nodes["input"] = self.nir.Input(input_type={"input": np_shape(node.shape)})
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
        unique, n = base, 1
        while unique in self.nodes or unique in ("input", "output"):
            n += 1
            unique = f"{base}_{n}"
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

    def conv(
        self, weight: Tensor, bias: Tensor, size: Any, stride: Sequence[int], padding: Sequence[int], dilation: Any
    ) -> Any:
        """Build Conv1d or Conv2d."""
        arrays = {"weight": self.array(weight), "bias": self.array(bias), "groups": 1}
        if weight.dim() == 3:
            numbers = {"stride": stride[0], "padding": padding[0], "dilation": dilation[0]}
            return self.nir.Conv1d(input_shape=int(size[0]), **numbers, **arrays)
        numbers = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
        return self.nir.Conv2d(input_shape=tuple(int(n) for n in size), **numbers, **arrays)

    def weight_and_bias(self, node: Node) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a node; a missing bias is zeros, because simulators require one."""
        weight, bias = self.parameter(node, "weight"), self.parameter(node, "bias")
        assert weight is not None
        return weight, torch.zeros(weight.shape[0]) if bias is None else bias

    # -- methods that operations call (rheobase.graph.operations.Words) --------------------------------------------

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
            return self.put(name, node, value.sources, value.shape)
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
        kernel, stride, padding = a["kernel_size"], a["stride"], a["padding"]
        if len(kernel) == 1:
            weight = torch.eye(node.shape[0]).unsqueeze(-1).expand(-1, -1, kernel[0])
            made = self.conv(weight, torch.zeros(node.shape[0]), value.shape[1:], stride, padding, (1,))
            return self.put(node.name, made, value.sources, node.shape)
        if len(kernel) != 2:
            raise NotExpressible(f"is pooling in {len(kernel)} dimensions")
        numbers = {"kernel_size": np_shape(kernel), "stride": np_shape(stride), "padding": np_shape(padding)}
        made = self.nir.SumPool2d(**numbers)
        made.input_type, made.output_type = {"input": np_shape(value.shape)}, {"output": np_shape(node.shape)}
        return self.put(node.name, made, value.sources, node.shape)

    def flatten(self, node: Node) -> Value:
        """Write Flatten, with axes counted from the last."""
        value = self.plain(node)
        made = self.nir.Flatten(input_type={"input": np_shape(value.shape)}, start_dim=-len(value.shape), end_dim=-1)
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


def np_shape(shape: Sequence[int]) -> Any:
    """Convert a shape to a NumPy array."""
    return torch.tensor(list(shape)).numpy()


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The weight of the same convolution in one group: [out, in, ...] with zeros between the groups."""
    if groups == 1:
        return weight
    out, into = weight.shape[:2]
    dense = weight.new_zeros(out, into * groups, *weight.shape[2:])
    for g in range(groups):
        rows = slice(g * out // groups, (g + 1) * out // groups)
        dense[rows, g * into : (g + 1) * into] = weight[rows]
    return dense


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
