"""The operation that picks single elements: permutations, copies and choices of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.shape import compact, write_permuted, write_reshape, write_slice
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed
from rheobase.graph.trace.places import CONSTANT, Places, follow

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


@built_in
class Select(Operation):
    """Elements of the inputs: along axis ``dim`` of a single input, or, if ``dim`` is 0, single ones.

    ``index`` [M] has the positions along the axis, or those in the flattened and joined samples of the inputs, whose
    elements then get the shape ``shape``.
    """

    name = "select"
    traced_from = (
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col", "unfold"),
        *("index", "index_select", "gather", "take_along_dim", "flip", "roll", "rot90", "diagonal", "diag_embed"),
        *("repeat", "repeat_interleave", "tile", "expand", "expand_as", "broadcast_to", "tril", "triu"),
        *("slice_scatter", "select_scatter", "diagonal_scatter", "scatter", "index_copy", "copy", "fill"),
    )
    makes_new_memory = True

    def apply(self, *xs: Tensor, index: Tensor, dim: int, shape: list[int]) -> Tensor:
        if dim:
            return xs[0].index_select(dim, index)
        joined = torch.cat([x.flatten(1) for x in xs], 1) if len(xs) > 1 else xs[0].flatten(1)
        return joined.index_select(1, index).reshape(len(joined), *shape)

    def trace(self, builder: Builder, call: Call) -> Any:
        """Write a node, or a slice or reshape, for each output of the call."""
        values = [write_places(builder, places) for places in follow(builder, call)]
        return tuple(values) if len(values) > 1 else values[0]

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """The same axis, or the first along which elements of different channels are."""
        known = [axis for axis in axes if axis is not None]
        if not known or at.attributes["dim"]:
            return known[0] if known else None
        channels = [
            torch.zeros(shape) if axis is None else _along(torch.arange(1.0, shape[axis - 1] + 1), axis - 1, shape)
            for shape, axis in zip(at.inputs, axes, strict=True)
        ]
        found = self._apply(at, channels)
        varying = [i for i, n in enumerate(compact(found).shape) if n > 1]
        return varying[0] + 1 if varying else min(known[0], max(len(at.shape), 1))

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Select the factors like the inputs."""
        one = next(factor.new_ones(()) for factor in factors if factor is not None)
        given = [one if factor is None else factor for factor in factors]
        expanded = [factor.expand(shape) for factor, shape in zip(given, at.inputs, strict=True)]
        return {}, compact(self._apply(at, expanded))

    def to_inputs(self, at: NodeContext, value: Tensor) -> Tensor | None:
        """The same value, if it is constant along the axis of the selection and there is one input."""
        axis = at.attributes["dim"] - 1
        if len(at.inputs) == 1 and (value.dim() == 0 or (axis >= 0 and value.shape[axis] == 1)):
            return value
        return None

    def _apply(self, at: NodeContext, samples: Sequence[Tensor]) -> Tensor:
        index = at.parameters["index"].long().to(samples[0].device)
        return self.apply(*(sample.unsqueeze(0) for sample in samples), index=index, **at.attributes)[0]

    def synapses(self, at: NodeContext) -> Synapses:
        return "route"

    def lower(self, words: Words, node: Node) -> Value:
        """Select channels."""
        if node.attributes["dim"] != 1:
            raise NotExpressible("moves values to other pixels")
        index = words.parameter(node, "index")
        assert index is not None
        return words.mapped(node).select(index.long().cpu())


def _along(values: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """A vector along an axis of a shape."""
    return values.reshape(*(-1 if i == axis else 1 for i in range(len(shape)))).expand(*shape)


def write_places(builder: Builder, places: Places) -> Any:
    """Write the elements as a node; a constant if all are, and ``places`` itself if axis 0 is not the batch."""
    constant = places.image == CONSTANT
    if bool(constant.all()):
        return Fixed(places.value.to(builder.dtype))
    return write_selection(builder, places) if places.batch_first() else places


def write_selection(builder: Builder, places: Places) -> str:
    """Write elements with the batch at axis 0 as a reshape, a slice, or a selection."""
    shape, position, constant = tuple(places.image.shape[1:]), places.position[0], places.image[0] == CONSTANT
    sources, start = [], 0
    renumbered = torch.zeros_like(position)
    offset = 0
    for source in places.sources:
        size = prod(builder.shapes[source])
        here = (position >= start) & (position < start + size) & ~constant
        if bool(here.any()):
            renumbered = torch.where(here, position - start + offset, renumbered)
            sources.append(source)
            offset += size
        start += size
    if bool(constant.any()):
        values, index = places.value[0][constant].unique(return_inverse=True)
        renumbered[constant] = index + offset
        sources.append(write_constant(builder, values.to(builder.dtype).unsqueeze(0)))
    elif len(sources) == 1:
        (x,) = sources
        if torch.equal(renumbered.flatten(), torch.arange(prod(builder.shapes[x]))):
            return write_reshape(builder, x, shape)
        along = _one_axis(renumbered, builder.shapes[x])
        if along is not None:
            return _write_along(builder, x, *along, shape)
        sizes = [n for axis in range(len(shape)) for n in _factors(_vector(renumbered, axis))]
        order = _order(renumbered.reshape(sizes), prod(builder.shapes[x]))
        if order is not None:
            x = write_reshape(builder, x, tuple(sizes[i] for i in order))
            x = write_permuted(builder, x, [order.index(i) for i in sorted(order)])
            return write_reshape(builder, x, shape)
    return _write(builder, tuple(sources), renumbered.flatten(), 0, shape)


def _one_axis(position: Tensor, shape: tuple[int, ...]) -> tuple[int, Tensor] | None:
    """The axis and the positions along it, if a selection is that of whole hyperplanes."""
    if position.dim() != len(shape) or 0 in position.shape:
        return None
    strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if any(i != axis and n != position.shape[i] for i, n in enumerate(shape)):
            continue
        index = _vector(position, axis) // stride % size
        expected = [_along(index if i == axis else torch.arange(n), i, position.shape) for i, n in enumerate(shape)]
        if torch.equal(sum(e * s for e, s in zip(expected, strides, strict=True)), position):  # type: ignore[arg-type]
            return axis, index
    return None


def _vector(tensor: Tensor, axis: int) -> Tensor:
    """The elements along an axis at index 0 of the others."""
    return tensor[tuple(slice(None) if i == axis else 0 for i in range(tensor.dim()))]


def _factors(positions: Tensor) -> list[int]:
    """Sizes of the axes with equal steps into which an axis with these positions splits, such as blocks of pixels."""
    steps = positions.diff()
    other = (steps != steps[:1]).nonzero()
    size = int(other[0]) + 1 if len(other) else len(positions)
    if size in (0, len(positions)) or len(positions) % size:
        return [len(positions)]
    return [*_factors(positions[::size]), size]


def _order(position: Tensor, size: int) -> list[int] | None:
    """The axes of a permutation, without those of size 1, as their elements follow in the input; None if it is none."""
    axes = [i for i, n in enumerate(position.shape) if n > 1]
    steps = {i: int(position.movedim(i, 0)[1].flatten()[0]) for i in axes}
    axes.sort(key=lambda i: -steps[i])
    expected = torch.zeros((), dtype=torch.long)
    for i in axes:
        expected = expected + _along(torch.arange(position.shape[i]), i, position.shape) * steps[i]
    found = position.numel() == size and all(
        steps[i] == prod(position.shape[j] for j in axes[k + 1 :]) for k, i in enumerate(axes)
    )
    return axes if found and torch.equal(expected.expand(position.shape), position) else None


def _write_along(builder: Builder, x: str, axis: int, index: Tensor, shape: tuple[int, ...]) -> str:
    """Write a selection along an axis, or a slice for equal steps forwards."""
    steps = index.diff().unique()
    if len(steps) == 0 or (len(steps) == 1 and steps[0] > 0):
        step = int(steps[0]) if len(steps) else 1
        return write_slice(builder, x, axis + 1, int(index[0]), int(index[-1]) + 1, step)
    return _write(builder, (x,), index, axis + 1, shape)


def _write(builder: Builder, sources: tuple[str, ...], index: Tensor, dim: int, shape: tuple[int, ...]) -> str:
    attributes = {"dim": dim, "shape": list(shape)}
    parameters = {"index": Fixed(index.to(torch.int32))}
    return builder.add("select", sources, shape, attributes=attributes, parameters=parameters)


def write_constant(builder: Builder, value: Tensor) -> str:
    """Write a constant [1, ...]."""
    read = (builder.nodes[0].name,)
    return builder.add("constant", read, tuple(value.shape[1:]), parameters={"value": Fixed(value)})


def write_expanded(builder: Builder, x: str, shape: tuple[int, ...]) -> str:
    """Write ``x`` broadcast to ``shape``; returns ``x`` if it has that shape."""
    if builder.shapes[x] == shape:
        return x
    places = Places.of(x, builder.shapes[x])
    lead = (1,) * (len(shape) - len(builder.shapes[x]))
    return write_selection(builder, places.map(lambda t: t.reshape(len(t), *lead, *t.shape[1:]).expand(len(t), *shape)))
