"""The operations of a graph in integer operators of ONNX, one function each.

Every value is the sum over a number of steps: of one step, or of all of them. Constants (biases, shifts, borders) are
therefore multiplied by the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.exchange.onnx.writer import Value, Whole, Writer
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NotExpressible
from rheobase.graph.operations.lookup import GAIN_BITS


@dataclass(frozen=True)
class Call:
    """A node of the graph with the values that it reads.

    Attributes:
        node: the node.
        inputs: the values by position.
        shapes: the shape of a sample of each.
        tensors: its tensors by argument.
        steps: the number of steps that the values are sums over.
    """

    node: Node
    inputs: tuple[Value, ...]
    shapes: tuple[tuple[int, ...], ...]
    tensors: Mapping[str, Tensor]
    steps: int

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The node's attributes."""
        return self.node.attributes

    def whole(self, argument: str) -> Whole | None:
        """A tensor as whole numbers, None if the node has none of this name."""
        return whole(self.tensors[argument]) if argument in self.tensors else None


Form = Callable[[Writer, Call], Value]
FORMS: dict[str, Form] = {}
"""The function of every operation by its name."""


def form(*names: str) -> Callable[[Form], Form]:
    """Decorator: use a function for these operations."""

    def add(function: Form) -> Form:
        FORMS.update(dict.fromkeys(names, function))
        return function

    return add


def whole(values: Tensor) -> Whole:
    """A tensor as whole numbers."""
    return values.detach().cpu().double().numpy().astype(np.int64)


def write(writer: Writer, call: Call) -> Value:
    """Write a node.

    Raises:
        NotExpressible: if ONNX has no form for it.
    """
    name = call.node.operation
    if name not in FORMS:
        raise NotExpressible(f"is the operation {name}")
    return FORMS[name](writer, call)


# -- weights ---------------------------------------------------------------------------------------------------------


@form("conv")
def _conv(writer: Writer, call: Call) -> Value:
    weight, a = whole(call.tensors["weight"]), call.attributes
    return _convolved(writer, call, call.inputs[0], weight, a["stride"], a["padding"])


@form("conv_transpose")
def _conv_transpose(writer: Writer, call: Call) -> Value:
    """A convolution with the flipped weight, of the input with zeros between its elements."""
    a, weight, (shape,) = call.attributes, whole(call.tensors["weight"]), call.shapes
    groups, kernel, axes = a["groups"], weight.shape[2:], len(weight.shape) - 2
    weight = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    weight = np.flip(weight.reshape(-1, *weight.shape[2:]), tuple(range(2, axes + 2)))
    x, size = call.inputs[0], list(shape)
    extra = a.get("output_padding") or [0]
    extra = extra if len(extra) == axes else [0] * axes
    pairs = [(0, 0)]
    for axis, stride in enumerate(a["stride"], start=1):
        if stride > 1:
            between = [*size[: axis + 1], 1, *size[axis + 1 :]]
            zeros = [(0, stride - 1) if i == axis + 1 else (0, 0) for i in range(len(between))]
            x = writer.padded(writer.reshaped(x, between), zeros)
            size[axis] *= stride
            x = writer.reshaped(x, size)
        border = a["dilation"][axis - 1] * (kernel[axis - 1] - 1) - a["padding"][axis - 1]
        pairs.append((border, border + extra[axis - 1] - (stride - 1)))
    return _convolved(writer, call, writer.padded(x, pairs), weight, [1] * axes, [0] * axes)


def _convolved(
    writer: Writer, call: Call, x: Value, weight: Whole, stride: Sequence[int], padding: Sequence[int]
) -> Value:
    axes = weight.ndim - 2
    given: dict[str, Any] = {"strides": list(stride), "pads": [*padding, *padding]}
    given |= {"dilations": list(call.attributes["dilation"]), "group": call.attributes["groups"]}
    return _biased(writer, call, writer.products(x, weight, axes, "ConvInteger", **given), axes)


@form("linear")
def _linear(writer: Writer, call: Call) -> Value:
    return _biased(writer, call, writer.products(call.inputs[0], whole(call.tensors["weight"]), 0, "MatMulInteger"), 0)


def _biased(writer: Writer, call: Call, x: Value, axes: int) -> Value:
    bias = call.whole("bias")
    return x if bias is None else writer.plus(x, call.steps * bias.reshape(-1, *(1,) * axes))


@form("affine")
def _affine(writer: Writer, call: Call) -> Value:
    (x,), scale, shift = call.inputs, call.whole("scale"), call.whole("shift")
    x = x if scale is None else writer.times(x, scale)
    return x if shift is None else writer.plus(x, call.steps * shift)


# -- sums and choices ------------------------------------------------------------------------------------------------


@form("add")
def _add(writer: Writer, call: Call) -> Value:
    return writer.add(*call.inputs)


@form("avg_pool")
def _sum_pool(writer: Writer, call: Call) -> Value:
    """Sums over windows; onnxruntime has no average of whole numbers."""
    a, (x,), (shape,) = call.attributes, call.inputs, call.shapes
    if a.get("divisor_override") != 1:
        raise NotExpressible("is a mean, not a sum")
    kernel, stride, padding = a["kernel_size"], a["stride"] or a["kernel_size"], a["padding"]
    x = writer.padded(x, [(0, 0), *((pad, pad) for pad in padding)])
    padded = [size + 2 * pad for size, pad in zip(shape[1:], padding, strict=True)]
    over = [axis for axis, size in enumerate(padded, start=2) if kernel[axis - 2] == size]
    if over:
        number = prod(padded[axis - 2] for axis in over)
        name = writer.op("ReduceSum", x.name, writer.array(over), keepdims=1)
        x = writer.value(name, number * x.low, number * x.high)
    for axis, size in enumerate(padded, start=2):
        if axis not in over:
            k, step = kernel[axis - 2], stride[axis - 2]
            last = (size - k) // step * step
            x = writer.add(*(writer.sliced(x, axis, i, i + last + 1, step) for i in range(k)))
    return x


@form("upsample")
def _upsample(writer: Writer, call: Call) -> Value:
    """A choice along every axis: PyTorch itself states the index, for it has several rules."""
    (x,), a, (shape,) = call.inputs, call.attributes, call.shapes
    if not a["mode"].startswith("nearest"):
        raise NotExpressible(f"is an interpolation ({a['mode']})")
    scale = a.get("scale")
    for axis, (size, to) in enumerate(zip(shape[1:], a["size"], strict=True)):
        mode, factor = a["mode"], None if scale is None else [scale[axis]]
        position = torch.arange(size, dtype=torch.float32).reshape(1, 1, -1)
        index = OPERATIONS["upsample"].apply(position, size=[to], mode=mode, align_corners=None, scale=factor)
        x = writer.gathered(x, whole(index.flatten()), axis + 2)
    return x


# -- moves -----------------------------------------------------------------------------------------------------------


@form("reshape")
def _reshape(writer: Writer, call: Call) -> Value:
    return writer.reshaped(call.inputs[0], call.node.shape)


@form("permute")
def _permute(writer: Writer, call: Call) -> Value:
    return writer.moved(call.inputs[0], "Transpose", perm=list(call.attributes["dims"]))


@form("slice")
def _slice(writer: Writer, call: Call) -> Value:
    a = call.attributes
    return writer.sliced(call.inputs[0], a["dim"], a["start"], a["stop"], a["step"])


@form("pad")
def _pad(writer: Writer, call: Call) -> Value:
    a, axes = call.attributes, len(call.node.shape)
    pairs = [tuple(a["pad"][i : i + 2]) for i in range(0, len(a["pad"]), 2)]
    pairs = [*[(0, 0)] * (axes - len(pairs)), *reversed(pairs)]
    fill = call.steps * float(a["value"] or 0)
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if a["mode"] not in modes or fill != int(fill):
        raise NotExpressible(f"pads in the mode {a['mode']}" if a["mode"] not in modes else f"pads by {a['value']}")
    return writer.padded(call.inputs[0], pairs, modes[a["mode"]], int(fill))


@form("concat")
def _concat(writer: Writer, call: Call) -> Value:
    return writer.joined(call.inputs, call.attributes["dim"])


@form("outputs")
def _outputs(writer: Writer, call: Call) -> Value:
    return writer.joined(call.inputs, 1)


@form("select")
def _select(writer: Writer, call: Call) -> Value:
    a, index = call.attributes, call.whole("index")
    assert index is not None
    if a["dim"]:
        return writer.gathered(call.inputs[0], index, a["dim"])
    flat = [writer.reshaped(x, [prod(shape)]) for x, shape in zip(call.inputs, call.shapes, strict=True)]
    joined = writer.joined(flat, 1) if len(flat) > 1 else flat[0]
    return writer.reshaped(writer.gathered(joined, index, 1), a["shape"])


@form("constant")
def _constant(writer: Writer, call: Call) -> Value:
    """A constant for every image of the batch."""
    values = call.whole("value")
    assert values is not None
    values = call.steps * values
    batch = writer.op("Shape", call.inputs[0].name, start=0, end=1)
    shape = writer.op("Concat", batch, writer.array(values.shape[1:]), axis=0)
    name = writer.op("Expand", writer.numbers(values), shape)
    return writer.value(name, values.min(initial=0), values.max(initial=0))


# -- tables ----------------------------------------------------------------------------------------------------------


def look_up(writer: Writer, call: Call, total: Value, steps: int) -> Value:
    """The output for one step of a lookup whose input has the sum ``total`` over a number of steps."""
    table, gain, theta = (call.whole(argument) for argument in ("table", "gain", "threshold"))
    assert table is not None
    assert gain is not None
    assert theta is not None
    first, per_threshold = call.attributes["first"], call.attributes["per_threshold"]
    theta, last = steps * theta, first + table.shape[-1] - 1
    # beyond one threshold of any channel every index is that of an end of the table
    within = writer.clip(total, -int(theta.max()), int(theta.max()))
    # floor((2 N S + θ) / 2 θ) in numbers of half the size
    halves = writer.plus(writer.times(within, np.array(per_threshold)), theta // 2)
    index = writer.plus(writer.floor_divide(halves, theta, first, last), np.array(-first))
    if table.ndim > 1:  # one table after the other
        tables = np.arange(prod(table.shape[:-1])).reshape(table.shape[:-1])
        index = writer.plus(index, tables * table.shape[-1])
    product = writer.times(writer.entries(table.flatten(), index), gain)
    rounded = writer.plus(product, np.array(2 ** (GAIN_BITS - 1)))
    least, most = (end // 2**GAIN_BITS for end in (rounded.low, rounded.high))
    return writer.floor_divide(rounded, np.array(2**GAIN_BITS), least, most)


# -- maxima ----------------------------------------------------------------------------------------------------------


def max_pool(writer: Writer, call: Call) -> Value:
    """The maxima over windows."""
    return writer.pooled(call.inputs[0], False, **_window(call))


def gate(writer: Writer, call: Call, total: Value) -> Value:
    """From each window, the element of the input at the position of the maximum of ``total``."""
    winners = writer.pooled(total, True, **_window(call))
    flat = writer.moved(call.inputs[0], "Reshape", writer.array([-1]))
    return writer.moved(flat, "Gather", winners.name, axis=0)


def _window(call: Call) -> dict[str, Any]:
    """Attributes of MaxPool. The border at the end is as wide as the output requires, so that no rounding is left."""
    a, sizes, out = call.attributes, call.shapes[0][1:], call.node.shape[1:]
    kernel, stride, dilation = a["kernel_size"], a["stride"] or a["kernel_size"], a["dilation"]
    reach = [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in zip(out, stride, dilation, kernel, strict=True)]
    after = [max(0, r - n - p) for r, n, p in zip(reach, sizes, a["padding"], strict=True)]
    return {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "dilations": list(dilation),
        "pads": [*a["padding"], *after],
    }
