"""Operations that move values: reshaping, permuting, slicing, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.operation import NodeContext, Passing, Scaled, Synapses, built_in
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


class Route(Passing):
    """An operation that moves values to other positions."""

    def synapses(self, at: NodeContext) -> Synapses:
        return "route"


@built_in
class Reshape(Route):
    """Reshape of one sample: ``shape`` is the sample's new shape, the batch axis is unchanged."""

    name = "reshape"
    traced_from = (
        *("view", "_unsafe_view", "view_copy", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"),
    )

    def apply(self, x: Tensor, *, shape: list[int]) -> Tensor:
        return x.reshape(x.shape[0], *shape)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, or none if the shape is the same."""
        return write_reshape(builder, call.input("self", "input"), call.shape)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """The axis with the same start as the channels, or the axis into which they are merged.

        Two axes have the same start if the sizes before them have the same product. [C, H, W] -> [C, H W] and
        [N, C] -> [N, heads, C / heads] keep the axis; [C, H, W] -> [C H W] and [N, C] -> [N C] merge it into the first.
        """
        (axis,) = axes
        if axis is None:
            return None
        (old,), new = at.inputs, at.shape
        if not old:  # a single number
            return 1
        begins = [1, *accumulate(new, mul)]
        before, size = prod(old[: axis - 1]), old[axis - 1]
        same = [i for i in range(len(new)) if begins[i] == before]
        exactly = [i for i in same if new[i] == size]
        merged = [i for i in range(len(new)) if begins[i] <= before]
        return (exactly or same or merged[-1:] or [0])[0] + 1

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor:
        return compact(factor.expand(at.inputs[0]).reshape(at.shape))

    def lower(self, words: Words, node: Node) -> Value:
        """Write nothing if channels are split or merged, and a flattening otherwise."""
        value = words.seen(node)
        space = value.shape[1:]
        lead = len(node.shape) - len(space)
        if lead > 0 and node.shape[lead:] == space and prod(node.shape[:lead]) == value.shape[0]:
            return replace(value, view=() if node.shape == value.shape else node.shape)
        if len(node.shape) != 1 or value.view:
            raise NotExpressible(f"reshapes {list(value.view or value.shape)} to {list(node.shape)}")
        return words.flatten(node)


def write_reshape(builder: Builder, x: str, shape: tuple[int, ...]) -> str:
    """Write a reshape of ``x``; returns ``x`` if it has that shape."""
    if builder.shapes[x] == shape:
        return x
    return builder.add("reshape", (x,), shape, attributes={"shape": list(shape)})


def compact(factor: Tensor) -> Tensor:
    """Reduce a factor to size 1 along every axis along which it is constant."""
    for axis in range(factor.dim()):
        first = factor.narrow(axis, 0, 1)
        if bool((factor == first).all()):
            factor = first
    return factor


@built_in
class Permute(Route):
    """Permutation of axes other than the batch."""

    name = "permute"
    traced_from = ("permute", "transpose", "t", "movedim", "swapaxes")

    def apply(self, x: Tensor, *, dims: list[int]) -> Tensor:
        return x.permute(dims)

    def trace(self, builder: Builder, call: Call) -> str:
        rank = len(call.shape) + 1
        dims = [d % rank for d in call.get("dims", range(rank))]
        if "dim0" in call:
            i, j = call["dim0"] % rank, call["dim1"] % rank
            dims[i], dims[j] = dims[j], dims[i]
        if dims[0] != 0 or not ("dims" in call or "dim0" in call):
            text = "moves the batch axis, which must remain axis 0"
            raise Refused(text, "keep axis 0 for the batch in every operation")
        return builder.add(self.name, (call.input("self"),), call.shape, attributes={"dims": dims})

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        (axis,) = axes
        return None if axis is None else list(at.attributes["dims"]).index(axis)

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor:
        return factor.permute(_axes(at.attributes))

    def to_inputs(self, at: NodeContext, value: Tensor) -> Tensor:
        axes = _axes(at.attributes)
        return value.permute([axes.index(i) for i in range(len(axes))]) if value.dim() else value

    def lower(self, words: Words, node: Node) -> Value:
        value, axes = words.seen(node), _axes(node.attributes)
        lead = len(axes) - len(value.shape[1:])
        if axes[lead:] != list(range(lead, len(axes))):
            raise NotExpressible("permutes spatial axes")
        seen = value.view or value.shape
        channels = torch.arange(value.shape[0]).reshape(seen[:lead]).permute(axes[:lead]).flatten()
        return replace(value.select(channels), view=() if node.shape == value.shape else node.shape)


def write_permuted(builder: Builder, x: str, axes: Sequence[int]) -> str:
    """Write ``x`` with the axes of a sample in another order, counted from 0; returns ``x`` for the same order."""
    if list(axes) == list(range(len(axes))):
        return x
    shape = tuple(builder.shapes[x][axis] for axis in axes)
    return builder.add("permute", (x,), shape, attributes={"dims": [0, *(axis + 1 for axis in axes)]})


def _axes(attributes: Mapping[str, Any]) -> list[int]:
    """The permutation of a sample's axes."""
    return [d - 1 for d in attributes["dims"][1:]]


@built_in
class Slice(Route):
    """``x[start:stop:step]`` along one axis."""

    name = "slice"
    traced_from = ("slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind")

    def apply(self, x: Tensor, *, dim: int, start: int, stop: int, step: int) -> Tensor:
        return x[(slice(None),) * dim + (slice(start, stop, step),)]

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        """Write one node per output, or none for a whole axis; a reshape removes the axis of an index."""
        x = call.input("self")
        old = builder.shapes[x]
        dim = call["dim"] % (len(old) + 1)
        if dim == 0 and call.shape == old:
            return x
        if dim == 0:
            raise Refused("selects images of the batch", "select or split channels or space only")
        size = old[dim - 1]
        if "index" in call or "length" in call:
            start = call["index" if "index" in call else "start"] % size
            pieces = [(start, start + call.get("length", 1), 1)]
        elif "step" in call:
            pieces = [slice(call["start"], call["end"], call["step"]).indices(size)]
        else:
            sizes = [1 if call.name == "unbind" else shape[dim - 1] for shape in call.outputs]
            pieces = [(stop - n, stop, 1) for n, stop in zip(sizes, accumulate(sizes), strict=True)]
        slices = [write_slice(builder, x, dim, *piece) for piece in pieces]
        names = tuple(write_reshape(builder, name, shape) for name, shape in zip(slices, call.outputs, strict=True))
        return names if len(names) > 1 else names[0]

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor:
        a, axis = at.attributes, at.attributes["dim"] - 1
        if factor.shape[axis] == 1:
            return factor
        return factor[(slice(None),) * axis + (slice(a["start"], a["stop"], a["step"]),)]

    def lower(self, words: Words, node: Node) -> Value:
        """Slice the map of channels, or change its stride."""
        a, value = node.attributes, words.mapped(node)
        if a["dim"] == 1:
            return value.select(slice(a["start"], a["stop"], a["step"]))
        axis = a["dim"] - 2
        if a["start"] != 0 or a["stop"] < value.shape[axis + 1]:
            raise NotExpressible("cuts off a border")
        stride = tuple(s * a["step"] if i == axis else s for i, s in enumerate(value.stride))
        return replace(value, shape=node.shape, stride=stride)


def write_slice(builder: Builder, x: str, dim: int, start: int, stop: int, step: int) -> str:
    """Write ``x[start:stop:step]`` along ``dim``; returns ``x`` if the slice covers the whole axis."""
    old = builder.shapes[x]
    if (start, stop, step) == (0, old[dim - 1], 1):
        return x
    shape = (*old[: dim - 1], len(range(start, stop, step)), *old[dim:])
    attributes = {"dim": dim, "start": start, "stop": stop, "step": step}
    return builder.add("slice", (x,), shape, attributes=attributes)


@built_in
class Pad(Route):
    """Padding by a constant, by reflection or by replication."""

    name = "pad"
    traced_from = (
        *("pad", "constant_pad_nd"),
        *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    )

    def apply(self, x: Tensor, *, pad: list[int], mode: str, value: float | None) -> Tensor:
        return F.pad(x, pad, mode, value)

    def trace(self, builder: Builder, call: Call) -> str:
        mode = call.get("mode", "constant")
        if call.name.startswith(("reflection", "replication")):
            mode = "reflect" if call.name.startswith("reflection") else "replicate"
        amounts = [int(p) for p in (call["pad"] if "pad" in call else call["padding"])]
        if len(amounts) == 2 * (len(call.shape) + 1):
            if any(amounts[-2:]):
                raise Refused("pads the batch axis", "pad channels or space only")
            amounts = amounts[:-2]
        value = float(call.get("value") or 0.0) if mode == "constant" else None
        attributes = {"pad": amounts, "mode": mode, "value": value}
        return builder.add(self.name, (call.input("self"),), call.shape, attributes=attributes)

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor | None:
        """Pad the factor by 1 where values are padded by 0; along an axis with another border it must be constant."""
        pairs = _pairs(at.attributes, len(at.shape))
        varying = [axis for axis, pair in enumerate(pairs) if any(pair) and factor.shape[axis] > 1]
        if not varying:
            return factor
        if at.attributes["mode"] != "constant":
            return None
        backwards = [n for axis in reversed(range(len(pairs))) for n in (pairs[axis] if axis in varying else (0, 0))]
        return F.pad(factor, backwards, value=1.0)

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output, unless the border is a constant other than 0."""
        if at.attributes["mode"] == "constant" and not _pads_by_zeros(at.attributes):
            return None
        return super().scale_inputs(at, factors)

    def entries(self, x: Tensor, *, pad: list[int], mode: str, value: float | None) -> Tensor:
        """A constant border has no entries, so it is padded by 0."""
        return self.apply(x, pad=pad, mode=mode, value=0.0 if mode == "constant" else None)

    def lower(self, words: Words, node: Node) -> Value:
        """Add channels of zeros to the map, or write a convolution that pads."""
        pairs = _pairs(node.attributes, len(node.shape))
        (first, last), *space = pairs
        if not _pads_by_zeros(node.attributes) or min(map(min, pairs)) < 0:
            raise NotExpressible("pads by other values than zeros")
        if any(left != right for left, right in space):
            raise NotExpressible("pads one side more than the other")
        value = words.mapped(node)
        if first or last:
            value = value.place(first, last)
        if any(left for left, _ in space):
            if value.shift is not None or any(s != 1 for s in value.stride):
                value = words.write(f"{node.name}_map", value).mapped()
            return words.write(node.name, replace(value, shape=node.shape), [left for left, _ in space])
        return value


def _pads_by_zeros(attributes: Mapping[str, Any]) -> bool:
    return attributes["mode"] == "constant" and attributes["value"] in (None, 0)


def _pairs(attributes: Mapping[str, Any], axes: int) -> list[tuple[int, int]]:
    """(before, after) for every axis of a sample; the attribute lists them from the last axis backwards."""
    amounts = attributes["pad"]
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    return [*[(0, 0)] * (axes - len(pairs)), *reversed(pairs)]
