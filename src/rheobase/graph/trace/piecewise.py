"""Activations with straight pieces in all their spellings: a clip to an interval becomes one site.

Neurons compute ``clip(z, 0, u)``. Every other clip is this one between a shift and a shift back, and a clip of a clip
is a clip. Comparisons, absolute values and leaky activations are written as refused nodes. Where a later call makes a
clip of them, as in ``where(x > 0, x, 0)`` and ``(x + |x|) / 2``, no value depends on the refused node any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.activations import ACTIVATIONS
from rheobase.graph.trace.call import Call, Fixed, Note, Ref, Refused, one_for_all
from rheobase.graph.trace.refusals import RELU, leaky_refused, unknown_call

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

SITE_MODULES = ("ReLU", "ReLU6", "Hardtanh", "QCFS", "Staircase", "Threshold", "LeakyReLU", "PReLU", "RReLU")
"""Module classes whose only node is a site; the site gets the module's name."""

Bound = float | Tensor
"""A number, or a tensor that broadcasts against one sample."""

_WITHIN_RANGE = ("reshape", "permute", "slice", "select", "max_pool", "avg_pool", "adaptive_avg_pool", "mean")
"""Operations whose outputs are in the range of their inputs."""


@dataclass(frozen=True)
class Clip:
    """``clip(source, lower, upper)``."""

    source: str
    lower: Bound
    upper: Bound


@dataclass(frozen=True)
class Bend:
    """``negative * min(source, 0) + positive * max(source, 0)``."""

    source: str
    negative: float
    positive: float


@dataclass(frozen=True)
class Mask:
    """``source > bound``, or ``source < bound``; ``closed``: or equal, which makes no difference to a clip."""

    source: str
    above: bool
    bound: Any
    closed: bool


@dataclass
class Pieces:
    """What is known of nodes with straight pieces, by the name of the node."""

    clips: dict[str, Clip] = field(default_factory=dict)
    bends: dict[str, Bend] = field(default_factory=dict)
    masks: dict[str, Mask] = field(default_factory=dict)


# -- clips ------------------------------------------------------------------------------------------------------------


def write_clip(builder: Builder, call: Call, x: str, lower: Bound, upper: Bound) -> str:
    """Write ``clip(x, lower, upper)`` as a site between shifts; returns ``x`` if its values are in the interval."""
    lower, upper = _plain(lower), _plain(upper)
    least, most = _range(builder, x)
    if _all(lower <= least) and _all(upper >= most):
        return x
    inner = builder.pieces.clips.get(x)
    if inner is not None:
        x, lower, upper = inner.source, _clip(inner.lower, lower, upper), _clip(inner.upper, lower, upper)
        lower, upper = _plain(lower), _plain(upper)
    if builder.shapes[x] != call.shape:
        raise Refused("clips at bounds that make its input larger", "expand the input to the shape of the bounds first")
    if not _all(lower < upper):
        raise Refused(f"clips to [{lower}, {upper}], which is a constant", "remove it, or clip to a wider interval")
    if _guards(builder, x, lower, upper):
        attributes = {"function": "clamp_min", "arguments": {"min": lower}}
        return builder.add("elementwise", (x,), call.shape, label=call.name, attributes=attributes)
    name = _shifted(builder, call, x, lower, upper)
    builder.pieces.clips[name] = Clip(x, lower, upper)
    return name


def _guards(builder: Builder, x: str, lower: Bound, upper: Bound) -> bool:
    """True for the larger of a value on numbers and a positive number, such as a norm before a division by it.

    Neurons would round a norm to their spikes; while they are silent, the quotient is divided by almost 0.
    """
    from rheobase.graph.operations import OPERATIONS, OnNumbers

    while (node := builder.written[x]).operation in (*_WITHIN_RANGE, "affine") and len(node.inputs) == 1:
        (x,) = node.inputs
    computed = isinstance(OPERATIONS.get(node.operation), OnNumbers)
    return computed and isinstance(lower, float) and lower > 0 and isinstance(upper, float) and upper == math.inf


def _shifted(builder: Builder, call: Call, x: str, lower: Bound, upper: Bound) -> str:
    """Write a site of ``x - lower``, or of ``upper - x`` if there is no lower bound, and the shift back."""
    from rheobase.graph.operations.affine import write_affine

    shape = call.shape
    sign, edge = (1.0, lower) if not _any(lower == -math.inf) else (-1.0, upper)
    if _any(abs(edge) == math.inf):
        raise Refused("has no bound for some channels", "use one kind of bound for all channels")
    width = _plain(upper - lower)
    scale = sign / width if isinstance(width, Tensor) else sign
    plain = sign == 1.0 and isinstance(edge, float) and edge == 0.0 and not isinstance(width, Tensor)
    z = x if plain else write_affine(builder, x, shape, scale=_given(scale, 1.0), shift=_given(-edge * scale, 0.0))
    upper_bound = 1.0 if isinstance(width, Tensor) else None if width == math.inf else width
    attributes = {"activation": "relu", "upper": upper_bound}
    site = builder.add("site", (z,), shape, label=call.name, modules=SITE_MODULES, attributes=attributes)
    if plain:
        return site
    path, kind = builder.place()
    text = f"{call.name}: clips at other values than 0; its neurons emit the difference to the bound"
    builder.rewrites.append(Note(f"{path or 'the network'} ({kind})", text))
    return write_affine(builder, site, shape, scale=_given(1.0 / scale, 1.0), shift=_given(edge, 0.0))


def _given(value: Bound, neutral: float) -> Bound | None:
    """None for a number that changes nothing."""
    return None if isinstance(value, float) and value == neutral else value


def _range(builder: Builder, name: str) -> tuple[float, float]:
    """Bounds of a value: those of the activation before it, through operations that only move values or average."""
    while (node := builder.written[name]).operation in _WITHIN_RANGE:
        padded = any(node.attributes.get("padding") or ())
        if len(node.inputs) != 1 or padded or node.attributes.get("divisor_override"):
            return -math.inf, math.inf
        (name,) = node.inputs
    if name in builder.pieces.clips:
        clip = builder.pieces.clips[name]
        return float(torch.as_tensor(clip.lower).min()), float(torch.as_tensor(clip.upper).max())
    if node.operation == "site":
        attributes = dict(node.attributes)
        return ACTIVATIONS[attributes.pop("activation")].bounds(**attributes).lower, math.inf
    return -math.inf, math.inf


def before_relu(builder: Builder, x: str) -> str:
    """The input of a ReLU, if ``x`` is its output: a staircase clips at 0 itself."""
    clip = builder.pieces.clips.get(x)
    return clip.source if clip and _all(clip.lower == 0) and _all(clip.upper == math.inf) else x


def _plain(bound: Any) -> Bound:
    """A number for a tensor of equal values."""
    if not isinstance(bound, Tensor):
        return float(bound)
    bound = bound.double()
    return float(bound.flatten()[0]) if bool((bound == bound.flatten()[0]).all()) else bound


def _clip(value: Bound, lower: Bound, upper: Bound) -> Bound:
    a, b, c = (torch.as_tensor(v, dtype=torch.float64) for v in (value, lower, upper))
    return torch.minimum(torch.maximum(a, b), c)


def _all(condition: Any) -> bool:
    return bool(torch.as_tensor(condition).all())


def _any(condition: Any) -> bool:
    return bool(torch.as_tensor(condition).any())


def _bound(value: Any, missing: float, shape: tuple[int, ...]) -> Bound:
    """A bound of a call; refused if it depends on the input."""
    if value is None:
        return missing
    if isinstance(value, Ref):
        text = "picks the larger or smaller of two activations, which is not linear"
        raise Refused(text, "write max(a, b) as b + relu(a - b), which converts exactly")
    if not isinstance(value, Fixed):
        return float(value)
    tensor = torch.as_tensor(value.value)
    return _plain(one_for_all(tensor)[0] if tensor.dim() == len(shape) + 1 else tensor)


def _relu(builder: Builder, call: Call) -> str:
    upper = 6.0 if call.name == "relu6" else math.inf
    return write_clip(builder, call, call.input("self"), 0.0, upper)


def _clamp(builder: Builder, call: Call) -> str:
    lower, upper = (call.get(f"{end}_val", call.get(end)) for end in ("min", "max"))
    bounds = _bound(lower, -math.inf, call.shape), _bound(upper, math.inf, call.shape)
    return write_clip(builder, call, call.input("self"), *bounds)


def _extreme(builder: Builder, call: Call) -> str:
    """Write the larger or smaller of a value and a constant."""
    if "other" not in call:
        raise unknown_call(call)
    x, other = call["self"], call["other"]
    x, other = (x, other) if isinstance(x, Ref) else (other, x)
    if isinstance(other, Ref):
        base, second = as_bend(builder, x), as_bend(builder, other)
        if base.source == second.source:
            choose = max if "max" in call.name else min
            slopes = (base.negative, second.negative), (base.positive, second.positive)
            other_choice = min if choose is max else max  # the larger product with a negative number: the smaller slope
            return write_bend(builder, call, Bend(base.source, other_choice(slopes[0]), choose(slopes[1])))
    bound = _bound(other, math.inf, call.shape)
    return write_clip(builder, call, x, *((bound, math.inf) if "max" in call.name else (-math.inf, bound)))


# -- bends ------------------------------------------------------------------------------------------------------------


def as_bend(builder: Builder, name: str) -> Bend:
    """A value as a bend of the node that it is computed from by multiplication with numbers; at least of itself."""
    bend = builder.pieces.bends.get(name, Bend(name, 1.0, 1.0))
    while (node := builder.written[bend.source]).operation == "affine" and set(node.parameters) == {"scale"}:
        scale = builder.tensors[node.parameters["scale"]]
        if scale.numel() != 1 or node.shape != builder.shapes[node.inputs[0]]:
            break
        slopes = (bend.negative, bend.positive) if scale >= 0 else (bend.positive, bend.negative)
        bend = Bend(node.inputs[0], *(float(scale) * slope for slope in slopes))
    return bend


def write_bend(builder: Builder, call: Call, bend: Bend) -> str:
    """Write a bend: a multiple of its source or of a clip; otherwise a refused node, known as a bend."""
    from rheobase.graph.operations.affine import write_affine
    from rheobase.graph.operations.pointwise import write_slopes

    x, negative, positive = bend.source, bend.negative, bend.positive
    if negative == positive:
        return x if positive == 1 else write_affine(builder, x, call.shape, scale=positive)
    if negative and positive and builder.allows_numbers:
        name = write_slopes(builder, call, x, negative, positive)
    elif negative and positive:
        name = builder.write_refused((x,), call.shape, call.name, leaky_refused())
    else:
        bounds, slope = ((0.0, math.inf), positive) if positive else ((-math.inf, 0.0), negative)
        name = write_clip(builder, call, x, *bounds)
        if slope == 1:
            return name
        name = write_affine(builder, name, call.shape, scale=slope)
    builder.pieces.bends[name] = bend
    return name


def _leaky(builder: Builder, call: Call) -> str:
    """Write an absolute value or a leaky, parametric or (in eval mode) randomised ReLU."""
    x = call.input("self")
    if call.name == "abs":
        return write_bend(builder, call, Bend(x, -1.0, 1.0))
    if call.name == "rrelu":
        slope: Bound = (call["lower"] + call["upper"]) / 2
    else:
        given = call.weight("weight") if "weight" in call else None
        slope = _plain(given.value) if given else float(call["negative_slope"])
    if isinstance(slope, Tensor):
        raise leaky_refused()
    return write_bend(builder, call, Bend(x, slope, 1.0))


def combined_or(handler: Callable[[Builder, Call], Any] | None) -> Callable[[Builder, Call], Any] | None:
    """A handler that writes a call only if it does not combine with a piece before it (:func:`combined`)."""
    return None if handler is None else lambda builder, call: combined(builder, call) or handler(builder, call)


def combined(builder: Builder, call: Call) -> str | None:
    """The node of a multiple or a sum of bends, or of a product with a mask; None if the call is none of them."""
    names = [a for a in (call.get("self"), call.get("other")) if isinstance(a, Ref)]
    pieces = builder.pieces
    if call.name not in ("mul", "div", "neg", "add", "sub", "rsub"):
        return None
    if call.name == "mul" and len(names) == 2 and any(name in pieces.masks for name in names):
        mask, x = names if names[0] in pieces.masks else reversed(names)
        return _masked(builder, call, mask, x, 0.0)
    if not any(name in pieces.bends for name in names) or any(builder.shapes[n] != call.shape for n in names):
        return None
    first = as_bend(builder, names[0])
    if len(names) == 2 and call.name in ("add", "sub", "rsub"):
        second, alpha = as_bend(builder, names[1]), call.get("alpha", 1)
        a, b = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
        if first.source != second.source:
            return None
        slopes = (a * x + b * y for x, y in zip(_slopes(first), _slopes(second), strict=True))
        return write_bend(builder, call, Bend(first.source, *slopes))
    if len(names) != 1 or call.name not in ("mul", "div", "neg"):
        return None
    factor = call.get("other", -1.0)
    if isinstance(call.get("self"), Fixed) or call.get("rounding_mode"):
        return None
    factor = _plain(factor.value if isinstance(factor, Fixed) else factor)
    if isinstance(factor, Tensor):
        return None
    factor = _as_stored(builder, 1 / factor if call.name == "div" else factor)
    return write_bend(builder, call, Bend(first.source, *(factor * slope for slope in _slopes(first))))


def _as_stored(builder: Builder, value: float) -> float:
    """A number rounded to the dtype of the graph, in which the network gives its constants: 0.7 is not 0.7 there."""
    return float(torch.tensor(value, dtype=builder.dtype))


def _slopes(bend: Bend) -> tuple[float, float]:
    return bend.negative, bend.positive


# -- masks ------------------------------------------------------------------------------------------------------------


def _compare(builder: Builder, call: Call) -> str:
    """Write a refused node, known as a mask: the comparison of a value with a constant."""
    text = "decides by the values of activations, which is not linear"
    inputs = tuple(a for a in (call["self"], call["other"]) if isinstance(a, Ref))
    name = builder.write_refused(inputs, call.shape, call.name, Refused(text, RELU))
    if len(inputs) == 1:
        swapped = not isinstance(call["self"], Ref)
        above = call.name.startswith(("g", "greater")) != swapped
        bound = _bound(call["self" if swapped else "other"], math.inf, call.shape)
        closed = call.name.endswith(("ge", "le", "equal"))
        builder.pieces.masks[name] = Mask(inputs[0], above, bound, closed)
    return name


def _not(builder: Builder, call: Call) -> str:
    mask = builder.pieces.masks.get(call["self"])
    if mask is None:
        raise unknown_call(call)
    text = "decides by the values of activations, which is not linear"
    name = builder.write_refused((call["self"],), call.shape, call.name, Refused(text, RELU))
    builder.pieces.masks[name] = replace(mask, above=not mask.above, closed=not mask.closed)
    return name


def _where(builder: Builder, call: Call) -> str | tuple[str, ...]:
    """Write ``where`` of a mask that is computed from activations; one that is constant only moves values."""
    from rheobase.graph.operations import OPERATIONS

    if call.name == "where":
        condition, chosen, other = call["condition"], call["self"], call["other"]
    elif call.name == "masked_fill":
        condition, chosen, other = call["mask"], call["value"], call["self"]
    else:
        indices = [index for index in call["indices"] if index is not None]
        condition, chosen, other = indices[0] if len(indices) == 1 else None, call["values"], call["self"]
    if not isinstance(condition, Ref):
        return OPERATIONS["select"].trace(builder, call)
    if condition not in builder.pieces.masks or call.get("accumulate"):
        raise Refused("decides by the values of activations, which is not linear", RELU)
    return _masked(builder, call, condition, chosen, other)


def _masked(builder: Builder, call: Call, mask: str, chosen: Any, other: Any) -> str:
    """Write a choice by a mask, which is refused for both if it is refused."""
    try:
        return _choice(builder, call, builder.pieces.masks[mask], chosen, other)
    except Refused:
        builder.refused.pop(mask, None)
        raise


def _threshold(builder: Builder, call: Call) -> str:
    x = call.input("self")
    return _choice(builder, call, Mask(x, True, float(call["threshold"]), False), x, call["value"])


def _choice(builder: Builder, call: Call, mask: Mask, chosen: Any, other: Any) -> str:
    """Write ``chosen`` where the mask holds and ``other`` elsewhere, if both meet at the bound of the mask."""
    if isinstance(mask.bound, float):
        mask = replace(mask, bound=_as_stored(builder, mask.bound))
    above, below = (chosen, other) if mask.above else (other, chosen)
    lines = [_line(builder, call, value, mask.source) for value in (above, below)]
    if not any(line is None for line in lines) and isinstance(mask.bound, float):
        (up, start), (down, end) = lines  # type: ignore[misc]
        if (up, down, end) == (1.0, 0.0, mask.bound) and start == 0:
            return write_clip(builder, call, mask.source, mask.bound, math.inf)
        if (up, down, start) == (0.0, 1.0, mask.bound) and end == 0:
            return write_clip(builder, call, mask.source, -math.inf, mask.bound)
        if mask.bound == start == end == 0:
            return write_bend(builder, call, Bend(mask.source, down, up))
    text = "chooses between values by an activation, and is not a ReLU or a clip"
    raise Refused(text, RELU)


def _line(builder: Builder, call: Call, value: Any, source: str) -> tuple[float, float] | None:
    """Slope and offset of a value as a function of ``source``; None if it is none with one slope."""
    if value == source:
        return 1.0, 0.0
    if isinstance(value, Ref):
        bend, base = as_bend(builder, value), as_bend(builder, source)
        straight = all(found.negative == found.positive for found in (bend, base)) and base.positive
        return (bend.positive / base.positive, 0.0) if straight and bend.source == base.source else None
    bound = _bound(value, 0.0, call.shape)
    return None if isinstance(bound, Tensor) else (0.0, _as_stored(builder, bound))


TRACED: dict[str, Callable[[Builder, Call], str | tuple[str, ...]]] = {
    **dict.fromkeys(("relu", "relu6"), _relu),
    **dict.fromkeys(("hardtanh", "clamp", "clamp_min", "clamp_max", "clip"), _clamp),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin", "max", "min"), _extreme),
    **dict.fromkeys(("abs", "absolute", "leaky_relu", "prelu", "rrelu"), _leaky),
    **dict.fromkeys(("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"), _compare),
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    **dict.fromkeys(("where", "masked_fill", "index_put"), _where),
    "threshold": _threshold,
}
"""Name of a call of torch -> function that writes its nodes."""
