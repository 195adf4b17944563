"""Calls on values whose batch is not at axis 0, as after ``x.reshape(-1, channels)`` or ``torch.stack([a, b])``.

The batch is moved to the front, the call is traced as if the network had written it this way, and the batch is moved
back; only the positions move (:mod:`rheobase.graph.trace.places`), so nothing is written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from rheobase.graph.operations import OPERATIONS, OnNumbers
from rheobase.graph.operations.affine import BatchNorm, write_affine
from rheobase.graph.operations.attention import Attention, Softmax
from rheobase.graph.operations.norms import LayerNorm
from rheobase.graph.operations.pointwise import Elementwise, Pairwise
from rheobase.graph.operations.select import write_places, write_selection
from rheobase.graph.operations.shape import Route, write_permuted, write_reshape
from rheobase.graph.operations.weighted import Convolution
from rheobase.graph.operations.windows import Spatial
from rheobase.graph.trace import piecewise
from rheobase.graph.trace.call import Call, Fixed, Misplaced, Ref, Refused, whole_numbers
from rheobase.graph.trace.dropout import MARK
from rheobase.graph.trace.places import Layout, Places

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

_COPIES = ("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "where", "masked_fill", "index_put")
MOVING = frozenset(
    call
    for operation in OPERATIONS.values()
    if isinstance(operation, Route) or operation.name in ("select", "concat")
    for call in operation.traced_from
).union(_COPIES)
"""Names of the calls that only move values."""
_OPERATION_OF = {
    call: operation
    for operation in OPERATIONS.values()
    if not isinstance(operation, OnNumbers)
    for call in operation.traced_from
}
_ELEMENTWISE = frozenset(
    (
        *(*piecewise.TRACED, *Elementwise.traced_from, *Pairwise.traced_from),
        *("add", "sub", "rsub", "mul", "div", "neg", "dropout", MARK, "_to_copy", "to", "type_as"),
    )
)
_OVER_ONE_AXIS = Softmax.traced_from
"""Calls that keep the shape, with an axis ``dim``."""
_OVER_LAST_AXES = LayerNorm.traced_from
"""Calls that keep the shape, with the number of last axes in ``normalized_shape``."""
_PRODUCTS = ("bmm", "baddbmm", "matmul")
"""Products of two values, of matrices in the last two axes."""
_SPATIAL = frozenset(
    call
    for operation in OPERATIONS.values()
    if isinstance(operation, Spatial | Convolution | BatchNorm)
    for call in operation.traced_from
)
"""Calls on maps [B, C, ...]."""
_OVER_LAST_AXIS = ("linear", "matmul", "mm", "addmm")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "logsumexp", "std", "var", "linalg_vector_norm")
"""Calls that give one value for some axes, ``dim``."""


def items(call: Call) -> Iterator[Any]:
    """All arguments of a call, those in lists one by one."""
    for value in call.arguments.values():
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def nodes_of(value: Any) -> tuple[str, ...]:
    """Names of the nodes that an argument depends on."""
    return (str(value),) if isinstance(value, Ref) else value.sources if isinstance(value, Places) else ()


def trace(builder: Builder, call: Call, handler: Callable[[Builder, Call], Any]) -> Any:
    """The value of a call with such an argument.

    Raises:
        Refused: if the call cannot be written with the batch at axis 0.
    """
    if call.name in MOVING:
        try:
            return OPERATIONS["select"].trace(builder, call)
        except Refused:
            if call.name not in _ELEMENTWISE:
                raise
    given = [value for value in items(call) if isinstance(value, Places)]
    first, layout = given[0], Layout.of(given[0])
    rank = first.image.dim()
    last = call.name in _OVER_LAST_AXIS and layout.axis != rank - 1
    if call.name in _SPATIAL and layout.axis == 0:
        name = _frames(builder, call, handler, first, layout)
        places = Places.of(name, builder.shapes[name]).map(layout.batch_back)
        return write_places(builder, places)
    if call.name in _PRODUCTS and len(given) == 2 and layout.axis < rank - 2:
        return _product(builder, call, handler, given, layout)
    if call.name in Attention.traced_from and layout.axis < rank - 2:
        name, shape = _together(builder, call, handler, ("query", "key", "value"), layout)
        return write_places(builder, Places.of(name, shape).map(layout.batch_back))
    last |= call.name in _OVER_LAST_AXES and layout.axis < rank - len(call["normalized_shape"])
    elementwise = call.name in _ELEMENTWISE and "dim" not in call  # max over an axis and glu have the names of others
    if not (elementwise or call.name in (*_REDUCTIONS, *_OVER_ONE_AXIS) or last):
        raise Misplaced(
            f"reads a value whose batch is part of axis {layout.axis}, next to other elements of an image",
            "keep axis 0 for the batch in this operation",
        )
    arguments = dict(call.arguments)
    for name, value in arguments.items():
        if isinstance(value, Places):
            fits = value.image.dim() == rank if elementwise else value.image.shape == first.image.shape
            if not fits or Layout.of(value) != layout:
                raise Misplaced("reads values whose batch is at different axes", "move the batch to axis 0 of both")
            arguments[name] = Ref(_to_front(builder, value, layout))
        elif isinstance(value, Ref):
            raise Misplaced("reads values whose batch is at different axes", "move the batch to axis 0 of both")
        elif isinstance(value, Fixed) and call.name in _ELEMENTWISE and torch.as_tensor(value.value).numel() > 1:
            whole = torch.broadcast_shapes(value.value.shape, first.image.shape)
            if len(whole) != rank or whole[layout.axis] != first.image.shape[layout.axis]:
                raise Misplaced("makes its input larger while the batch is not at axis 0", "move the batch to axis 0")
            arguments[name] = Fixed(layout.batch_to_front(value.value.expand(whole)), value.name)
    if call.name in _OVER_ONE_AXIS:
        if call["dim"] % rank == layout.axis:
            raise Misplaced("computes over the batch", "compute over channels or space only")
        (arguments["dim"],) = layout.axes(call["dim"], rank)
    if call.name in _REDUCTIONS:
        given_dims = call.get("dim")
        dims = [given_dims] if isinstance(given_dims, int) else list(given_dims or range(rank))
        axes = [axis for dim in dims for axis in layout.axes(dim, rank)]
        if any(dim % rank == layout.axis for dim in dims):
            raise Misplaced("computes over the batch", "compute over channels or space only")
        arguments["dim"] = axes
    shapes = [builder.shapes[value] for value in arguments.values() if isinstance(value, Ref)]
    if elementwise:
        constants = (torch.as_tensor(value.value) for value in arguments.values() if isinstance(value, Fixed))
        shapes += [tuple(constant.shape[1:]) for constant in constants]
    shape = tuple(torch.broadcast_shapes(*shapes))
    if call.name in _OVER_LAST_AXIS:
        shape = (*shape[:-1], call.shape[-1])
    elif call.name in _REDUCTIONS:
        kept = bool(call.get("keepdim"))
        shape = tuple(1 if i + 1 in axes else n for i, n in enumerate(shape) if kept or i + 1 not in axes)
        if not kept:
            layout = replace(layout, axis=layout.axis - sum(dim % rank < layout.axis for dim in dims))
    moved = replace(call, arguments=arguments, outputs=(shape,))
    name = handler(builder, moved)
    places = Places.of(name, builder.shapes[name]).map(layout.batch_back)
    return write_places(builder, places)


def _frames(
    builder: Builder, call: Call, handler: Callable[[Builder, Call], Any], places: Places, layout: Layout
) -> str:
    """Write a call on maps whose batch is merged with frames, [B N, C, ...]; returns the node with [B, N, C, ...].

    Pooling and resizing treat channels alone, so frames may be more of them. The weights of a convolution are those of
    all frames: it becomes one with another axis, along which its kernel has size 1.
    """
    x, argument = _to_front(builder, places, layout), "input" if "input" in call else "self"
    frames = tuple(n for n in (layout.outer, layout.inner) if n > 1)
    number, (channels, *space) = prod(frames), places.image.shape[1:]

    def traced(x: str, shape: tuple[int, ...], **changed: Any) -> str:
        name = changed.pop("name", call.name)
        arguments = {**call.arguments, argument: Ref(x), **changed}
        made: str = handler(builder, replace(call, name=name, arguments=arguments, outputs=(shape,)))
        return made

    if isinstance(_OPERATION_OF[call.name], Spatial):
        merged = write_reshape(builder, x, (number * channels, *space))
        x = traced(merged, (number * call.shape[0], *call.shape[1:]))
        return write_reshape(builder, x, (*frames, *call.shape))
    x = write_reshape(builder, x, (number, channels, *space))
    x = write_permuted(builder, x, [1, 0, *range(2, 2 + len(space))])
    shape = (call.shape[0], number, *call.shape[1:])
    if isinstance(_OPERATION_OF[call.name], BatchNorm):
        x = traced(x, shape)
    else:
        x = traced(x, shape, **_with_another_axis(call, len(space)))
    x = write_permuted(builder, x, [1, 0, *range(2, 2 + len(space))])
    return write_reshape(builder, x, (*frames, *call.shape))


def _together(
    builder: Builder, call: Call, handler: Callable[[Builder, Call], Any], names: Sequence[str], layout: Layout
) -> tuple[str, tuple[int, ...]]:
    """Write a product or attention of values [..., N, C] whose batch is at the same axis before N, such as heads.

    Returns the node and its shape, with the rows of the first value and the columns of the last.
    """
    if any(not isinstance(call[name], Places) or Layout.of(call[name]) != layout for name in names):
        raise Misplaced("reads values whose batch is at different axes", "move the batch to axis 0 of all")
    moved = {name: Ref(_to_front(builder, call[name], layout)) for name in names}
    first, *_, last = moved.values()
    shape = (*builder.shapes[first][:-1], builder.shapes[last][-1])
    return handler(builder, replace(call, arguments={**call.arguments, **moved}, outputs=(shape,))), shape


def _product(
    builder: Builder, call: Call, handler: Callable[[Builder, Call], Any], given: list[Places], layout: Layout
) -> Any:
    """The product of two values, such as [B heads, N, C]; and for ``baddbmm`` what is added to it."""
    plain = replace(call, name="matmul", arguments={"self": given[0], "other": given[1]})
    name, shape = _together(builder, plain, handler, ("self", "other"), layout)
    if call.name == "baddbmm":  # beta * self + alpha * product
        added, image = call["self"], (*given[0].image.shape[:-1], given[1].image.shape[-1])
        if not isinstance(added, Fixed):
            raise Misplaced("adds a value to a product while the batch is not at axis 0", "move the batch to axis 0")
        scale = None if call["alpha"] == 1 else call["alpha"]
        constant = call["beta"] * added.value
        shift = layout.batch_to_front(constant.expand(image)) if bool(constant.any()) else None
        if scale is not None or shift is not None:
            name = write_affine(builder, name, shape, scale=scale, shift=shift)
    return write_places(builder, Places.of(name, shape).map(layout.batch_back))


def _with_another_axis(call: Call, axes: int) -> dict[str, Any]:
    """The changed arguments of a convolution with another first axis, along which its kernel has size 1."""
    if axes > 2:
        raise Misplaced("is a 3-d convolution of a batch merged with frames", "keep axis 0 for the batch")
    weight = call.weight("weight")
    assert weight is not None
    neutral = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
    numbers = {
        name: [first, *whole_numbers(call[name], axes)]
        for name, first in neutral.items()
        if name in call and not isinstance(call[name], str)
    }
    return {
        "name": call.name.replace(f"{axes}d", f"{axes + 1}d"),
        "weight": Fixed(weight.value.unsqueeze(2)),
        **numbers,
    }


def write_like(builder: Builder, places: Places, write: Callable[[tuple[int, ...]], str]) -> Any:
    """A value whose batch is where that of ``places`` is, from a function that writes its node for a shape."""
    try:
        layout = Layout.of(places)
    except Refused:
        return write(tuple(places.image.shape[1:]))
    name = write(tuple(layout.batch_to_front(places.image).shape[1:]))
    return write_places(builder, Places.of(name, builder.shapes[name]).map(layout.batch_back))


def _to_front(builder: Builder, places: Places, layout: Layout) -> str:
    """The node with the batch at axis 0, written once."""
    if places not in builder.moved:
        builder.moved[places] = write_selection(builder, places.map(layout.batch_to_front))
    return builder.moved[places]
