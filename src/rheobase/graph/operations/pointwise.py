"""Functions on numbers, element by element: soft activations, leaky ReLUs, choices, gates."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.graph.operations.numbers import OnNumbers, check_axis, known, operands, per_image
from rheobase.graph.operations.operation import NodeContext, built_in
from rheobase.graph.operations.shape import write_slice
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


@built_in
class Elementwise(OnNumbers):
    """A function of one variable, by the name of ATen: SiLU, GELU, hard-swish, sigmoid, exponential...

    ``arguments`` are the further arguments of the function, by name.
    """

    name = "elementwise"
    traced_from = (
        *("silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "hardswish", "tanh", "erf", "erfc", "exp", "exp2"),
        *("expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "square", "sigmoid", "log_sigmoid"),
        *("hardshrink", "softshrink", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh"),
        *("atanh", "sinc", "threshold", "logit", "pow", "clamp_min"),
        *("round", "floor", "ceil", "trunc", "frac", "sign", "sgn"),
    )
    modules = (
        *("SiLU", "GELU", "ELU", "SELU", "CELU", "Mish", "Softplus", "Hardswish", "Tanh", "Sigmoid", "LogSigmoid"),
        *("Hardshrink", "Softshrink"),
    )

    def apply(self, x: Tensor, *, function: str, arguments: dict[str, Any]) -> Tensor:
        call = known(torch.ops.aten, function, self.traced_from)
        return per_image(lambda one: call(one, **arguments), x)

    def trace(self, builder: Builder, call: Call) -> str:
        inputs, fixed, arguments = call.split()
        if fixed or len(inputs) != 1 or not isinstance(call[next(iter(call.arguments))], Ref):
            raise Refused(f"is a power or function ({call.name}) of several values", "write it as a product")
        attributes = {"function": call.name, "arguments": arguments}
        return builder.add(self.name, inputs, call.shape, label=call.name, modules=self.modules, attributes=attributes)

    def work(self, at: NodeContext) -> int:
        return prod(at.shape)


@built_in
class Slopes(OnNumbers):
    """A leaky or parametric ReLU: ``positive * x`` for x > 0, ``negative * x`` elsewhere; both broadcast."""

    name = "slopes"
    traced_from = ("prelu",)
    modules = ("LeakyReLU", "PReLU", "RReLU")
    trained = ("negative", "positive")

    def apply(self, x: Tensor, *, negative: Tensor, positive: Tensor) -> Tensor:
        return torch.where(x > 0, x * positive, x * negative)

    def trace(self, builder: Builder, call: Call) -> str:
        slope = call.weight("weight")
        assert slope is not None
        spread = slope.value.reshape(-1, *(1,) * (len(call.shape) - 1))
        return write_slopes(builder, call, call.input("self"), Fixed(spread), 1.0)

    def work(self, at: NodeContext) -> int:
        return prod(at.shape)


def write_slopes(builder: Builder, call: Call, x: str, negative: Fixed | float, positive: Fixed | float) -> str:
    """Write a leaky ReLU of ``x``."""
    given = {"negative": negative, "positive": positive}
    parameters = {
        name: value if isinstance(value, Fixed) else Fixed(torch.tensor(value, dtype=builder.dtype))
        for name, value in given.items()
    }
    modules = Slopes.modules
    return builder.add("slopes", (x,), call.shape, label=call.name, modules=modules, parameters=parameters)


@built_in
class Choice(OnNumbers):
    """``a`` where ``x`` is above the bound (below it, if not ``above``; at it too, if ``closed``), ``b`` elsewhere."""

    name = "choice"
    traced_from = ("where", "masked_fill", "index_put", "mul")

    def apply(self, x: Tensor, a: Tensor, b: Tensor, *, above: bool, bound: float, closed: bool = False) -> Tensor:
        chosen = x > bound if above else x < bound
        return torch.where(chosen | (x == bound) if closed else chosen, a, b)

    def trace(self, builder: Builder, call: Call) -> str:
        if call.name == "index_put":
            raise Refused("assigns to places that depend on values", "use torch.where")
        if call.name == "mul":  # of a value and a comparison: the value or 0
            call = _as_where(builder, call)
        condition = call["condition" if call.name == "where" else "mask"]
        mask = builder.pieces.masks.get(condition) if isinstance(condition, Ref) else None
        if mask is None or not isinstance(mask.bound, float) or builder.shapes[mask.source] != call.shape:
            raise Refused("decides by something else than the comparison of an activation with a number", "use a ReLU")
        values = operands(builder, call, ("self", "other") if call.name == "where" else ("value", "self"))
        attributes = {"above": mask.above, "bound": mask.bound, "closed": mask.closed}
        return builder.add(self.name, (mask.source, *values), call.shape, label=call.name, attributes=attributes)

    def work(self, at: NodeContext) -> int:
        return prod(at.shape)


def _as_where(builder: Builder, call: Call) -> Call:
    """The product of a value and a comparison as ``where``."""
    value, mask = call["self"], call["other"]
    if value in builder.pieces.masks:
        value, mask = mask, value
    if mask not in builder.pieces.masks or value in builder.pieces.masks:
        raise Refused("multiplies no value and comparison", "use a ReLU")
    return replace(call, name="where", arguments={"condition": mask, "self": value, "other": 0.0})


@built_in
class Pairwise(OnNumbers):
    """A function of two activations, element by element: a gate's product, a quotient, the larger or smaller one."""

    name = "pairwise"
    traced_from = ("mul", "div", "maximum", "minimum", "fmax", "fmin", "max", "min", "pow", "atan2", "glu")

    def apply(self, a: Tensor, b: Tensor, *, function: str) -> Tensor:
        call = known(torch, function, self.traced_from)
        if function in ("pow", "atan2"):
            return per_image(call, *torch.broadcast_tensors(a, b))
        return call(a, b)

    def trace(self, builder: Builder, call: Call) -> str:
        if call.name == "glu":
            return self._write_glu(builder, call)
        arguments = tuple(call.arguments)[:2]
        if arguments[1:] not in (("other",), ("exponent",)) or call.get("rounding_mode"):
            raise Refused("picks one of several values by its size, or rounds", "rewrite it with elementwise functions")
        function = {"max": "maximum", "min": "minimum"}.get(call.name, call.name)
        if any(call[argument] in builder.pieces.masks for argument in arguments):
            raise Refused("multiplies by a comparison of another shape", "compare a value of the shape of the result")
        inputs = operands(builder, call, arguments)
        return builder.add(self.name, inputs, call.shape, label=call.name, attributes={"function": function})

    def _write_glu(self, builder: Builder, call: Call) -> str:
        """Write a gated linear unit (Dauphin et al. 2017): one half of the channels times the sigmoid of the other."""
        x, axis = call.input("self"), check_axis(call)
        size = call.shape[axis - 1]
        value, gate = (write_slice(builder, x, axis, start, start + size, 1) for start in (0, size))
        sigmoid = {"function": "sigmoid", "arguments": {}}
        gate = builder.add("elementwise", (gate,), call.shape, label="sigmoid", attributes=sigmoid)
        return builder.add(self.name, (value, gate), call.shape, label="glu", attributes={"function": "mul"})

    def work(self, at: NodeContext) -> int:
        return prod(at.shape)
