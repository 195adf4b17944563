"""Operations that move values: reshaping, permuting, slicing, padding."""

from __future__ import annotations

from abc import abstractmethod
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
from rheobase.graph.operations.factors import compact, constant_along
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


class Route(Operation):
    """An operation that moves values to other positions."""

    def synapses(self, at: NodeContext) -> Synapses:
        """``"route"``."""
        return "route"

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output, like the values."""
        (factor,) = factors
        assert factor is not None
        moved = self.moved(at, factor) if factor.dim() else factor
        return None if moved is None else ({}, moved)

    @abstractmethod
    def moved(self, at: NodeContext, factor: Tensor) -> Tensor | None:
        """Move a factor, which has all axes of the input, like the values; None if that is not possible."""


@built_in
class Reshape(Route):
    """Reshape of one sample: ``shape`` is the sample's new shape, the batch axis is unchanged."""

    name = "reshape"
    traced_from = (
        *("view", "_unsafe_view", "view_copy", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"),
    )

    def apply(self, x: Tensor, *, shape: list[int]) -> Tensor:
        """Return the view."""
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
        begins = [1, *accumulate(new, mul)]
        before, size = prod(old[: axis - 1]), old[axis - 1]
        same = [i for i in range(len(new)) if begins[i] == before]
        exactly = [i for i in same if new[i] == size]
        merged = [i for i in range(len(new)) if begins[i] <= before]
        return (exactly or same or merged[-1:] or [0])[0] + 1

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Reshape the factor."""
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


@built_in
class Permute(Route):
    """Permutation of axes other than the batch."""

    name = "permute"
    traced_from = ("permute", "transpose", "t", "movedim", "swapaxes")

    def apply(self, x: Tensor, *, dims: list[int]) -> Tensor:
        """Return the view."""
        return x.permute(dims)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
        rank = len(call.shape) + 1
        dims = list(range(rank))
        if "dims" in call:
            dims = [d % rank for d in call["dims"]]
        elif "dim0" in call:
            i, j = call["dim0"] % rank, call["dim1"] % rank
            dims[i], dims[j] = dims[j], dims[i]
        else:
            raise Refused("moves the batch axis", "use permute and keep axis 0 for the batch")
        if dims[0] != 0:
            raise Refused(
                "moves the batch axis, which must remain axis 0", "keep axis 0 for the batch in every operation"
            )
        return builder.add(self.name, (call.input("self"),), call.shape, attributes={"dims": dims})

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """New position of the axis."""
        (axis,) = axes
        return None if axis is None else list(at.attributes["dims"]).index(axis)

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Permute the factor."""
        return factor.permute(_axes(at.attributes))

    def to_inputs(self, at: NodeContext, value: Tensor) -> Tensor:
        """Undo the permutation."""
        axes = _axes(at.attributes)
        return value.permute([axes.index(i) for i in range(len(axes))]) if value.dim() else value

    def lower(self, words: Words, node: Node) -> Value:
        """Permute the map of channels."""
        value, axes = words.seen(node), _axes(node.attributes)
        lead = len(axes) - len(value.shape[1:])
        if axes[lead:] != list(range(lead, len(axes))):
            raise NotExpressible("permutes spatial axes")
        seen = value.view or value.shape
        channels = torch.arange(value.shape[0]).reshape(seen[:lead]).permute(axes[:lead]).flatten()
        return replace(value.select(channels), view=() if node.shape == value.shape else node.shape)


def _axes(attributes: Mapping[str, Any]) -> list[int]:
    """The permutation of a sample's axes."""
    return [d - 1 for d in attributes["dims"][1:]]


@built_in
class Slice(Route):
    """``x[start:stop:step]`` along one axis."""

    name = "slice"
    traced_from = ("slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind")

    def apply(self, x: Tensor, *, dim: int, start: int, stop: int, step: int) -> Tensor:
        """Return the view."""
        return x[(slice(None),) * dim + (slice(start, stop, step),)]

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        """Write one node per output, or none for a whole axis; a reshape removes the axis of an index."""
        x = call.input("self")
        old = builder.shapes[x]
        dim = call["dim"] % (len(old) + 1)
        if call.name in ("split", "split_with_sizes", "chunk", "unbind"):
            return self._trace_split(builder, call, x, dim)
        if dim == 0:
            if call.shape == old:
                return x
            raise Refused("selects images of the batch", "index channels or space only")
        size = old[dim - 1]
        if "index" in call:
            start = call["index"] % size
            return write_reshape(builder, _write_slice(builder, x, dim, start, start + 1), call.shape)
        if "length" in call:
            start = call["start"] % size
            return _write_slice(builder, x, dim, start, start + call["length"])
        start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
        return _write_slice(builder, x, dim, start, stop, step)

    def _trace_split(self, builder: Builder, call: Call, x: str, dim: int) -> tuple[str, ...]:
        if dim == 0:
            raise Refused("splits the batch", "split channels or space only")
        names, start = [], 0
        for shape in call.outputs:
            stop = start + (1 if call.name == "unbind" else shape[dim - 1])
            names.append(write_reshape(builder, _write_slice(builder, x, dim, start, stop), shape))
            start = stop
        return tuple(names)

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Slice the factor."""
        a = at.attributes
        if constant_along(factor, [a["dim"] - 1]):
            return factor
        return factor[(slice(None),) * (a["dim"] - 1) + (slice(a["start"], a["stop"], a["step"]),)]

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


def _write_slice(builder: Builder, x: str, dim: int, start: int, stop: int, step: int = 1) -> str:
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
        """Pad."""
        return F.pad(x, pad, mode, value)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
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
