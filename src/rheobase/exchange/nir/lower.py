"""A graph in the words of NIR.

NIR has convolutions, affine maps, sum pooling, flattening and edges that add up. Everything else is put in these words:
a slice, a padding, a concatenation, a channel shuffle or a per-channel factor is a 1x1 convolution with mostly zeros.
What NIR's own type check or the simulators read wrongly is avoided: grouped convolutions and kernels that are not
square are written out with zeros, linear layers as ``Affine``, pooling as ``SumPool2d`` with the division in the
weights that follow, axes to flatten counted from the back. All of that is exact in real arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import StoreError
from rheobase.exchange.nir.package import require_nir
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node

_PARTIAL = "export the part of the network that NIR has words for, or keep it as a folder: rb.save(snn, ...)"


def sum_pools(graph: Graph) -> tuple[Graph, dict[str, Tensor]]:
    """Every pooling by mean as one by sum (``divisor_override=1``), and the factor that it then lacks."""
    nodes, factors = [], {}
    for node in graph.nodes:
        window = _window(node, graph)
        if window is None:
            nodes.append(node)
            continue
        kernel, stride, padding = window
        attributes = {"kernel_size": kernel, "stride": stride, "padding": padding, "divisor_override": 1}
        channels = node.shape[0]
        flat = node.operation == "mean" and not node.attributes["keepdim"]
        shape = (channels, *(1 for _ in kernel)) if flat else node.shape
        name = f"{node.name}.sum" if flat else node.name
        nodes.append(Node(name, "avg_pool", node.inputs, attributes, {}, shape, node.origin))
        if flat:
            nodes.append(Node(node.name, "reshape", (name,), {"shape": [channels]}, {}, node.shape, node.origin))
        divisor = node.attributes.get("divisor_override") or prod(kernel)
        factors[name] = torch.tensor(1 / divisor, dtype=torch.float64, device=graph.device)
    return graph.replace(nodes=nodes), factors


def _window(node: Node, graph: Graph) -> tuple[list[int], list[int], list[int]] | None:
    """(kernel, stride, padding) of a pooling by mean; None for anything else."""
    a = node.attributes
    if node.operation == "avg_pool":
        counted = a.get("count_include_pad", True) or not any(a["padding"])
        if a.get("ceil_mode") or not counted:
            raise refusal(node, "divides by the number of pixels under the window, which differs at the border")
        return list(a["kernel_size"]), list(a["stride"] or a["kernel_size"]), list(a["padding"])
    if node.operation not in ("adaptive_avg_pool", "mean"):
        return None
    (before,) = (n.shape for n in graph.nodes if n.name == node.inputs[0])
    size = list(before[1:])
    if node.operation == "mean":
        axes = sorted(d % (len(before) + 1) for d in a["dim"])
        if axes != list(range(2, len(before) + 1)):
            raise refusal(node, "is a mean over some axes only")
        return size, size, [0] * len(size)
    out = a["output_size"]
    if any(n % m for n, m in zip(size, out, strict=True)):
        raise refusal(node, f"pools {size} to {list(out)} with windows of different sizes")
    kernel = [n // m for n, m in zip(size, out, strict=True)]
    return kernel, kernel, [0] * len(size)


def refusal(node: Node, reason: str) -> StoreError:
    """The error for an operation that NIR has no words for."""
    called = node.origin if node.origin and not node.origin.startswith("the network") else node.name
    return StoreError(f"{reason}, for which NIR has no node", where=called, remedy=_PARTIAL)


_UNKNOWN = {
    "conv_transpose": "is a transposed convolution",
    "upsample": "is an upsampling",
    "max_pool": "is max-pooling",
    "constant": "is a constant",
}


@dataclass
class _Value:
    """A value of the graph: the sum of NIR nodes, seen through a map of channels that is not written yet."""

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    matrix: Tensor | None = None  # [C, C of the sources]
    shift: Tensor | None = None  # [C]
    stride: tuple[int, ...] = ()
    view: tuple[int, ...] = ()  # the shape it is seen in, where the channels are split into several axes


class Lowering:
    """NIR nodes and edges for a graph.

    Args:
        graph: with sums for means (:func:`sum_pools`).
        thresholds: θ of every site, [] or [C].

    Attributes:
        nodes: the NIR nodes by name.
        edges: pairs of names.
        names: node of the graph -> NIR node with its weights, for convolutions, linear layers and sites.
    """

    def __init__(self, graph: Graph, thresholds: dict[str, Tensor]) -> None:
        self.graph, self.thresholds, self.nir = graph, thresholds, require_nir()
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.names: dict[str, str] = {}
        self.values: dict[str, _Value] = {}
        self.dtype = next((t.dtype for t in graph.tensors.values() if t.is_floating_point()), torch.float32)
        for node in graph.nodes:
            inputs = [self.values[name] for name in node.inputs]
            method = getattr(self, f"_{node.operation}", None)
            if method is None:
                raise refusal(node, _UNKNOWN.get(node.operation, f"is the operation {node.operation}"))
            if node.operation not in ("reshape", "permute") and any(value.view for value in inputs):
                raise refusal(node, f"reads the shape {[list(value.view or value.shape) for value in inputs]}")
            value = method(node, *inputs)
            assert (value.view or value.shape) == node.shape, f"{node.name}: {value} for {node.shape}"
            self.values[node.name] = value
        if self.values[graph.output].view:
            raise refusal(graph.nodes[-1], f"gives the shape {list(self.values[graph.output].view)}")
        output = self.plain(graph.output)
        self.nodes["output"] = self.nir.Output(output_type={"output": np_shape(output.shape)})
        self.edges += [(source, "output") for source in output.sources]

    # -- nodes ---------------------------------------------------------------------------------------------------

    def put(self, name: str, node: Any, sources: Sequence[str], shape: tuple[int, ...]) -> _Value:
        """Add a NIR node that reads the sum of others."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        base = f"n{base}" if base[0].isdigit() else base
        unique, n = base, 1
        while unique in self.nodes or unique in ("input", "output"):
            n += 1
            unique = f"{base}_{n}"
        self.nodes[unique] = node
        self.edges += [(source, unique) for source in sources]
        return _Value((unique,), shape)

    def plain(self, name: str) -> _Value:
        """A value without a map of channels left to be written."""
        value = self.values[name]
        if value.matrix is not None:
            value = self.values[name] = self.write_map(f"{name}_map", value)
        return value

    def write_map(self, name: str, value: _Value, padding: Sequence[int] | None = None) -> _Value:
        """A map of channels as a 1x1 convolution, or an affine node where there is no space."""
        assert value.matrix is not None
        bias = torch.zeros(len(value.matrix)) if value.shift is None else value.shift
        axes = len(value.shape) - 1
        if axes == 0:
            node = self.nir.Affine(weight=self.array(value.matrix), bias=self.array(bias))
            return self.put(name, node, value.sources, value.shape)
        weight = value.matrix.reshape(*value.matrix.shape, *(1,) * axes)
        before = self.nodes[value.sources[0]].output_type["output"][1:]
        node = self.convolution(weight, bias, before, value.stride, padding or (0,) * axes, (1,) * axes)
        return self.put(name, node, value.sources, value.shape)

    def convolution(
        self, weight: Tensor, bias: Tensor, size: Any, stride: Sequence[int], padding: Sequence[int], dilation: Any
    ) -> Any:
        """Conv1d or Conv2d."""
        arrays = {"weight": self.array(weight), "bias": self.array(bias), "groups": 1}
        if weight.dim() == 3:
            numbers = {"stride": stride[0], "padding": padding[0], "dilation": dilation[0]}
            return self.nir.Conv1d(input_shape=int(size[0]), **numbers, **arrays)
        numbers = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
        return self.nir.Conv2d(input_shape=tuple(int(n) for n in size), **numbers, **arrays)

    def array(self, tensor: Tensor) -> Any:
        """As NumPy, in the network's precision."""
        return tensor.detach().to(self.dtype).cpu().contiguous().numpy()

    # -- operations ----------------------------------------------------------------------------------------------

    def _input(self, node: Node) -> _Value:
        self.nodes["input"] = self.nir.Input(input_type={"input": np_shape(node.shape)})
        return _Value(("input",), node.shape)

    def _site(self, node: Node, _: _Value) -> _Value:
        sources = self.plain(node.inputs[0]).sources
        theta = self.thresholds[node.name].cpu()
        if theta.dim():
            theta = theta.reshape(-1, *(1,) * (len(node.shape) - 1))
        threshold = self.array(theta.expand(node.shape))
        ones = self.array(torch.ones(node.shape))
        made = self.put(node.name, self.nir.IF(r=ones, v_threshold=threshold), sources, node.shape)
        self.names[node.name] = made.sources[0]
        return made

    def _conv(self, node: Node, _: _Value) -> _Value:
        value, a = self.plain(node.inputs[0]), node.attributes
        if len(node.shape) not in (2, 3):
            raise refusal(node, f"is a convolution in {len(node.shape) - 1} dimensions")
        weight, bias = self.parameters(node)
        weight, padding = _square(_ungrouped(weight, a["groups"]), list(a["padding"]), a["dilation"], node)
        made = self.convolution(weight, bias, value.shape[1:], a["stride"], padding, a["dilation"])
        return self.weighted(node, made, value)

    def _linear(self, node: Node, _: _Value) -> _Value:
        value = self.plain(node.inputs[0])
        if len(node.shape) != 1:
            raise refusal(node, "is a linear layer over one of several axes")
        weight, bias = self.parameters(node)
        return self.weighted(node, self.nir.Affine(weight=self.array(weight), bias=self.array(bias)), value)

    def parameters(self, node: Node) -> tuple[Tensor, Tensor]:
        """Weight and bias; zeros where there is none, because simulators want one."""
        weight = self.graph.tensor(node.parameters["weight"])
        bias = node.parameters.get("bias")
        return weight, torch.zeros(weight.shape[0]) if bias is None else self.graph.tensor(bias)

    def weighted(self, node: Node, made: Any, value: _Value) -> _Value:
        """A node with weights."""
        result = self.put(node.name, made, value.sources, node.shape)
        self.names[node.name] = result.sources[0]
        return result

    def _add(self, node: Node, *_: _Value) -> _Value:
        sources: list[str] = []
        for i, name in enumerate(node.inputs):
            value = self.plain(name)
            if set(value.sources) & set(sources):  # an edge is there once or not at all
                value = self.write_map(f"{node.name}_{i}", self.mapped(value))
            sources += value.sources
        return _Value(tuple(sources), node.shape)

    def _avg_pool(self, node: Node, _: _Value) -> _Value:
        value, a = self.plain(node.inputs[0]), node.attributes
        kernel, stride, padding = a["kernel_size"], a["stride"], a["padding"]
        if len(kernel) == 1:
            weight = torch.eye(node.shape[0]).unsqueeze(-1).expand(-1, -1, kernel[0])
            made = self.convolution(weight, torch.zeros(node.shape[0]), value.shape[1:], stride, padding, (1,))
            return self.put(node.name, made, value.sources, node.shape)
        if len(kernel) != 2:
            raise refusal(node, f"is pooling in {len(kernel)} dimensions")
        numbers = {"kernel_size": np_shape(kernel), "stride": np_shape(stride), "padding": np_shape(padding)}
        made = self.nir.SumPool2d(**numbers)
        made.input_type, made.output_type = {"input": np_shape(value.shape)}, {"output": np_shape(node.shape)}
        return self.put(node.name, made, value.sources, node.shape)

    def _reshape(self, node: Node, value: _Value) -> _Value:
        space = value.shape[1:]
        lead = len(node.shape) - len(space)
        if lead > 0 and node.shape[lead:] == space and prod(node.shape[:lead]) == value.shape[0]:
            return replace(value, view=() if node.shape == value.shape else node.shape)
        if len(node.shape) != 1 or value.view:
            raise refusal(node, f"reshapes {list(value.view or value.shape)} to {list(node.shape)}")
        value = self.plain(node.inputs[0])
        made = self.nir.Flatten(input_type={"input": np_shape(value.shape)}, start_dim=-len(value.shape), end_dim=-1)
        return self.put(node.name, made, value.sources, node.shape)

    def _permute(self, node: Node, value: _Value) -> _Value:
        axes = [d - 1 for d in node.attributes["dims"][1:]]
        lead = len(axes) - len(value.shape[1:])
        if axes[lead:] != list(range(lead, len(axes))):
            raise refusal(node, "permutes axes of space")
        value = self.mapped(value)
        assert value.matrix is not None
        seen = value.view or value.shape
        rows = torch.arange(value.shape[0]).reshape(seen[:lead]).permute(axes[:lead]).flatten()
        shift = None if value.shift is None else value.shift[rows]
        view = () if node.shape == value.shape else node.shape
        return replace(value, matrix=value.matrix[rows], shift=shift, view=view)

    def mapped(self, value: _Value) -> _Value:
        """The value with a map of channels to be changed."""
        if value.matrix is not None:
            return value
        identity = torch.eye(value.shape[0], dtype=torch.float64)
        return replace(value, matrix=identity, stride=(1,) * (len(value.shape) - 1))

    def _affine(self, node: Node, value: _Value) -> _Value:
        value = self.mapped(value)
        assert value.matrix is not None
        scale, shift = (self.channel_vector(node, argument) for argument in ("scale", "shift"))
        before = torch.zeros(value.shape[0], dtype=torch.float64) if value.shift is None else value.shift
        if scale is not None:
            before = scale * before
        if shift is not None:
            before = before + shift
        matrix = value.matrix if scale is None else scale.unsqueeze(-1) * value.matrix
        return replace(value, matrix=matrix, shift=before)

    def channel_vector(self, node: Node, argument: str) -> Tensor | None:
        """A parameter of an affine as one number a channel."""
        if argument not in node.parameters:
            return None
        tensor = self.graph.tensor(node.parameters[argument]).double().cpu()
        axes = len(node.shape)
        full = tensor.reshape((1,) * (axes - tensor.dim()) + tuple(tensor.shape)).expand(node.shape).flatten(1)
        if axes > 1 and not bool((full == full[:, :1]).all()):
            raise refusal(node, f"has another {argument} for every pixel")
        return full[:, 0] if axes > 1 else tensor.expand(node.shape)

    def _slice(self, node: Node, value: _Value) -> _Value:
        a, value = node.attributes, self.mapped(value)
        assert value.matrix is not None
        if a["dim"] == 1:
            rows = slice(a["start"], a["stop"], a["step"])
            shift = None if value.shift is None else value.shift[rows]
            return replace(value, shape=node.shape, matrix=value.matrix[rows], shift=shift)
        axis = a["dim"] - 2
        if a["start"] != 0 or a["stop"] < value.shape[axis + 1]:
            raise refusal(node, "cuts off a border")
        stride = tuple(s * a["step"] if i == axis else s for i, s in enumerate(value.stride))
        return replace(value, shape=node.shape, stride=stride)

    def _pad(self, node: Node, value: _Value) -> _Value:
        a = node.attributes
        pairs = [tuple(a["pad"][i : i + 2]) for i in range(0, len(a["pad"]), 2)]
        pairs += [(0, 0)] * (len(value.shape) - len(pairs))
        *space, (first, last) = pairs  # listed from the last axis backwards; the channels are the first
        if a["mode"] != "constant" or a["value"] not in (None, 0) or min(map(min, pairs)) < 0:
            raise refusal(node, "pads by something else than zeros")
        if any(left != right for left, right in space):
            raise refusal(node, "pads one side more than the other")
        value = self.mapped(value)
        assert value.matrix is not None
        if first or last:
            matrix = torch.nn.functional.pad(value.matrix, (0, 0, first, last))
            shift = None if value.shift is None else torch.nn.functional.pad(value.shift, (first, last))
            value = replace(value, shape=(len(matrix), *value.shape[1:]), matrix=matrix, shift=shift)
        if any(left for left, _ in space):
            if value.shift is not None or any(s != 1 for s in value.stride):
                value = self.mapped(self.write_map(f"{node.name}_map", value))
            padding = [left for left, _ in reversed(space)]
            return self.write_map(node.name, replace(value, shape=node.shape), padding)
        return value

    def _concat(self, node: Node, *values: _Value) -> _Value:
        if node.attributes["dim"] != 1:
            raise refusal(node, "joins along an axis of space")
        sources: list[str] = []
        start = 0
        for i, value in enumerate(map(self.mapped, values)):
            assert value.matrix is not None
            sides = (start, node.shape[0] - start - value.shape[0])
            start += value.shape[0]
            matrix = torch.nn.functional.pad(value.matrix, (0, 0, *sides))
            shift = None if value.shift is None else torch.nn.functional.pad(value.shift, sides)
            part = replace(value, shape=node.shape, matrix=matrix, shift=shift)
            sources += self.write_map(f"{node.name}_{i}", part).sources
        return _Value(tuple(sources), node.shape)


def np_shape(shape: Sequence[int]) -> Any:
    """A shape as NIR wants it."""
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


def _square(weight: Tensor, padding: list[int], dilation: Sequence[int], node: Node) -> tuple[Tensor, list[int]]:
    """A square kernel, with zeros around the one that is not: NIR computes both sizes from the first."""
    sizes = weight.shape[2:]
    largest = max(sizes)
    if any((largest - n) % 2 for n in sizes):
        raise refusal(node, f"has a kernel of {list(sizes)}, which cannot be centred in a square one")
    sides = [(largest - n) // 2 for n in sizes]
    amounts = [side for side in reversed(sides) for _ in (0, 1)]
    padding = [p + side * d for p, side, d in zip(padding, sides, dilation, strict=True)]
    return torch.nn.functional.pad(weight, amounts), padding
