"""Operations on numbers: functions of activations that are not affine, one class for each kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.core.errors import ModelError
from rheobase.graph.node import Node
from rheobase.graph.operations.contract import PRODUCTS, as_einstein_sum, write_product
from rheobase.graph.operations.operation import OPERATIONS, NodeContext, Operation, built_in
from rheobase.graph.operations.select import write_constant
from rheobase.graph.operations.shape import write_slice
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused, one_for_all, reference

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


class OnNumbers(Operation):
    r"""Base class of operations that are not affine: they compute on numbers, not on spikes.

    In a simulation such a node computes at every step, on the running means of its inputs. It gives

    .. math:: out[t] = t \, f(\bar x_t) - (t - 1) \, f(\bar x_{t-1}), \qquad \bar x_t = \frac{1}{t} \sum_{s=1}^{t} x[s]

    so that after every step the time-mean of its values is exactly :math:`f(\bar x_t)`. Neurons after it turn it into
    spikes. Its state is the sum of each input so far and :math:`t f(\bar x_t)`. In closed form and in the analog
    network it is f. A network has such nodes only if the caller allows them (``nonlinear="numbers"``).

    ``traced_from`` names calls that no affine operation is traced from, or that one may refuse.
    """

    affine = False
    makes_new_memory = True

    @abstractmethod
    def work(self, at: NodeContext) -> int:
        """Number of elementary operations (multiplications, additions, functions of a number) for one image."""

    def lower(self, words: Words, node: Node) -> Value:
        """Refuse: a NIR graph holds neurons and affine nodes."""
        raise NotExpressible(f"computes on numbers ({function_of(node)})")


def per_image(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of a batch, image by image on a CPU, so that the bits of an image do not depend on its batch.

    Kernels on a CPU compute most elements of a buffer by vectors and the last ones by themselves, which rounds
    exponentials and sums differently. With gradients the batch is computed at once.
    """
    rows = len(inputs[0])
    if inputs[0].device.type != "cpu" or any(x.requires_grad for x in inputs) or rows == 1:
        return function(*(x.contiguous() for x in inputs))
    return torch.cat([function(*(x[i : i + 1].contiguous() for x in inputs)) for i in range(rows)])


def function_of(node: Node) -> str:
    """Name of the function that a node on numbers computes, for people."""
    names = {"slopes": "leaky ReLU", "product": "matrix product"}
    return str(node.attributes.get("function", names.get(node.operation, node.operation)))


def check_finite(node: Node, value: Tensor) -> None:
    """Raise a ModelError if a node on numbers gives NaN or infinite values, as a logarithm does at a mean of 0."""
    if not bool(torch.isfinite(value).all()):
        raise ModelError(
            f"computes {function_of(node)}, which is NaN or infinite for the time-mean of its input",
            where=node.origin or node.name,
            remedy="bound its input in the network, as in log(x + 1e-3)",
        )


def _inputs(builder: Builder, call: Call, arguments: Sequence[str]) -> tuple[str, ...]:
    """Two operands of one shape [B, ...], broadcast against each other; a constant becomes a node."""
    found = []
    for argument in arguments:
        value = call[argument]
        if isinstance(value, Ref):
            if len(builder.shapes[value]) != len(call.shape):
                raise Refused("combines values with different numbers of axes", "give both the same axes")
            found.append(str(value))
        elif isinstance(value, Fixed | int | float):
            tensor = torch.as_tensor(value.value if isinstance(value, Fixed) else value, dtype=builder.dtype)
            lead = (1,) * (len(call.shape) + 1 - tensor.dim())
            found.append(write_constant(builder, one_for_all(tensor.reshape(lead + tensor.shape))))
        else:
            raise Refused("reads a value whose axis 0 is not the batch alone", "keep axis 0 for the batch")
    return tuple(found)


def _known(place: Any, function: str, names: Sequence[str]) -> Callable[..., Tensor]:
    """The function with this name; a file may name no other than these."""
    if function not in names:
        raise ModelError(f"is {function!r}", where="function of a node on numbers", remedy=f"use {', '.join(names)}")
    found: Callable[..., Tensor] = getattr(place, function)
    return found


def _axis(call: Call, argument: str = "dim") -> int:
    """An axis other than the batch, counted from the front."""
    axis = int(call[argument]) % (len(call.shape) + 1)
    if axis == 0:
        raise Refused("computes over the images of the batch", "compute over channels or space only")
    return axis


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
        call = _known(torch.ops.aten, function, self.traced_from)
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
        operands = _inputs(builder, call, ("self", "other") if call.name == "where" else ("value", "self"))
        attributes = {"above": mask.above, "bound": mask.bound, "closed": mask.closed}
        return builder.add(self.name, (mask.source, *operands), call.shape, label=call.name, attributes=attributes)

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
        call = _known(torch, function, self.traced_from)
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
        inputs = _inputs(builder, call, arguments)
        return builder.add(self.name, inputs, call.shape, label=call.name, attributes={"function": function})

    def _write_glu(self, builder: Builder, call: Call) -> str:
        """Write a gated linear unit (Dauphin et al. 2017): one half of the channels times the sigmoid of the other."""
        x, axis = call.input("self"), _axis(call)
        size = call.shape[axis - 1]
        value, gate = (write_slice(builder, x, axis, start, start + size, 1) for start in (0, size))
        sigmoid = {"function": "sigmoid", "arguments": {}}
        gate = builder.add("elementwise", (gate,), call.shape, label="sigmoid", attributes=sigmoid)
        return builder.add(self.name, (value, gate), call.shape, label="glu", attributes={"function": "mul"})

    def work(self, at: NodeContext) -> int:
        return prod(at.shape)


@built_in
class Product(OnNumbers):
    """A matrix product or any other Einstein sum of two activations, such as the scores of attention.

    ``equation`` has the batch as first letter of both terms and of the result.
    """

    name = "product"
    traced_from = PRODUCTS

    def apply(self, a: Tensor, b: Tensor, *, equation: str) -> Tensor:
        return torch.einsum(equation, a, b)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node for the product, and what the call adds to it."""
        return write_product(builder, call, self._write)

    def _write(self, builder: Builder, call: Call) -> str:
        equation, tensors = as_einstein_sum(builder, call)
        terms, _, output = equation.partition("->")
        if len(tensors) != 2 or not all(isinstance(tensor, Ref) for tensor in tensors):
            raise Refused("multiplies more than two values at once", "multiply two at a time")
        if any(term[:1] != terms[:1] for term in (*terms.split(","), output)):
            raise Refused("moves or mixes the batch axis, which must remain axis 0", "keep axis 0 for the batch")
        attributes = {"equation": equation}
        return builder.add(self.name, tuple(tensors), call.shape, label=call.name, attributes=attributes)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        """The last axis, as in the values that attention returns."""
        return len(at.shape)

    def work(self, at: NodeContext) -> int:
        first, second = at.attributes["equation"].partition("->")[0].split(",")
        return prod(dict(zip(first[1:] + second[1:], at.inputs[0] + at.inputs[1], strict=True)).values())


@built_in
class Attention(OnNumbers):
    """Attention (Vaswani et al. 2017, Eq. 1) of q [B, ..., N, d], k [B, ..., M, d] and v [B, ..., M, e].

    ``mask``, [..., N, M], is added to the scores.
    """

    name = "attention"
    traced_from = ("scaled_dot_product_attention",)

    def apply(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None) -> Tensor:
        repeated = q.shape[-3] // k.shape[-3] if q.dim() > 3 else 1  # several heads of q for one of k and v
        if repeated > 1:
            k, v = k.repeat_interleave(repeated, -3), v.repeat_interleave(repeated, -3)
        scores = (q * scale) @ k.transpose(-2, -1)
        return (scores if mask is None else scores + mask).softmax(-1) @ v

    def trace(self, builder: Builder, call: Call) -> str:
        q, k, v = (self._operand(builder, call[name]) for name in ("query", "key", "value"))
        mask = call.weight("attn_mask")
        value = None if mask is None else mask.value
        rows, columns = call.shape[-2], builder.shapes[k][-2]
        if call.get("is_causal"):
            value = torch.ones(rows, columns, dtype=torch.bool).tril()
        if value is not None and value.dtype == torch.bool:
            value = torch.zeros(value.shape, dtype=builder.dtype).masked_fill(~value, -torch.inf)
        if value is not None and value.dim() == len(call.shape) + 1:
            if not bool((value == value[:1]).all()):
                raise Refused("has a mask that differs between images", "use the same mask for all images")
            value = value[0]
        if value is not None and bool((value == -torch.inf).all(-1).any()):
            raise Refused("has a mask that leaves a token nothing to attend to", "let every token attend to one")
        given = call.get("scale")
        scale = float(given) if given is not None else builder.shapes[q][-1] ** -0.5
        parameters = {"mask": None if value is None else Fixed(value)}
        return builder.add(self.name, (q, k, v), call.shape, attributes={"scale": scale}, parameters=parameters)

    @staticmethod
    def _operand(builder: Builder, value: Any) -> str:
        """The node of q, k or v; a constant, such as a learned query, becomes one."""
        if not isinstance(value, Fixed):
            return reference(value)
        return write_constant(builder, one_for_all(value.value.to(builder.dtype)))

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        return len(at.shape)

    def work(self, at: NodeContext) -> int:
        rows, (columns, last) = prod(at.inputs[0][:-1]), at.inputs[2][-2:]
        return rows * columns * (at.inputs[0][-1] + last + SOFTMAX)


SOFTMAX = 3
"""Operations of a softmax for each element: exponential, sum, quotient."""
NORM = 5
"""Operations of a normalisation for each element: mean, square, sum of squares, quotient, weight and bias."""


@built_in
class Softmax(OnNumbers):
    """Softmax, or with ``log`` its logarithm, over an axis."""

    name = "softmax"
    traced_from = ("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
    modules = ("Softmax", "LogSoftmax", "Softmax2d")

    def apply(self, x: Tensor, *, dim: int, log: bool) -> Tensor:
        return per_image(lambda one: F.log_softmax(one, dim) if log else F.softmax(one, dim), x)

    def trace(self, builder: Builder, call: Call) -> str:
        attributes = {"dim": _axis(call), "log": "log" in call.name}
        return builder.add(self.name, (call.input("self"),), call.shape, label=call.name, attributes=attributes)

    def work(self, at: NodeContext) -> int:
        return SOFTMAX * prod(at.shape)


@built_in
class LayerNorm(OnNumbers):
    """Normalisation over the last ``axes`` axes (Ba et al. 2016); not ``centred``: by the root mean square."""

    name = "layer_norm"
    traced_from = ("layer_norm", "rms_norm", "_fused_rms_norm")
    modules = ("LayerNorm", "RMSNorm")
    trained = ("weight", "bias")

    def apply(
        self,
        x: Tensor,
        *,
        axes: int,
        eps: float,
        centred: bool,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        shape = x.shape[x.dim() - axes :]
        if centred:
            return F.layer_norm(x, shape, weight, bias, eps)
        return F.rms_norm(x, shape, weight, eps)

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        centred = call.name == "layer_norm"
        axes = len(call["normalized_shape"])
        if axes > len(call.shape):
            raise Refused("normalises over the images of the batch", "normalise over channels or space only")
        eps = call.get("eps")
        attributes = {
            "axes": axes,
            "eps": float(torch.finfo(builder.dtype).eps if eps is None else eps),
            "centred": centred,
        }
        parameters = {name: call.weight(name) for name in ("weight", "bias") if name in call}
        return builder.add(self.name, (call.input("input"),), call.shape, attributes=attributes, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """The last axis if that is normalised alone, as in networks of tokens."""
        return len(at.shape) if at.attributes["axes"] == 1 else next((axis for axis in axes if axis is not None), None)

    def work(self, at: NodeContext) -> int:
        return NORM * prod(at.shape)


@built_in
class GroupNorm(OnNumbers):
    """Group normalisation (Wu & He 2018); with a group for each channel, instance normalisation."""

    name = "group_norm"
    traced_from = ("group_norm", "instance_norm")
    modules = ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
    trained = ("weight", "bias")

    def apply(
        self, x: Tensor, *, groups: int, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        return F.group_norm(x, groups, weight, bias, eps)

    def trace(self, builder: Builder, call: Call) -> str:
        if call.name == "instance_norm" and not call["use_input_stats"]:
            raise Refused("normalises by running statistics of each channel", "use batch normalisation")
        groups = call.get("num_groups", call.shape[0])
        parameters = {name: call.weight(name) for name in ("weight", "bias")}
        attributes = {"groups": groups, "eps": float(call["eps"])}
        return builder.add(self.name, (call.input("input"),), call.shape, attributes=attributes, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        return 1

    def work(self, at: NodeContext) -> int:
        return NORM * prod(at.shape)


@built_in
class Reduction(OnNumbers):
    """The largest or smallest value, a norm, a deviation or a log-sum-exp over axes of a sample."""

    name = "reduction"
    traced_from = (
        *("amax", "amin", "max", "min", "logsumexp", "std", "var", "std_mean", "var_mean"),
        "linalg_vector_norm",
    )

    def apply(
        self, x: Tensor, *, function: str, dim: list[int], keepdim: bool, correction: float = 1.0, order: float = 2.0
    ) -> Tensor:
        def reduced(one: Tensor) -> Tensor:
            if function == "norm":
                return torch.linalg.vector_norm(one, order, dim, keepdim)
            options = {"correction": correction} if function in ("std", "var") else {}
            return _known(torch, function, self.traced_from)(one, dim, keepdim=keepdim, **options)

        return per_image(reduced, x)

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        if call.name in ("max", "min") and "dim" not in call:
            raise Refused("is the largest or smallest value of all images", "give the axes of one image")
        x = call.input("self")
        rank = len(builder.shapes[x]) + 1
        given = call["dim"]
        dims = [given] if isinstance(given, int) else list(given or range(rank))
        if any(d % rank == 0 for d in dims):
            raise Refused("computes over the images of the batch", "compute over channels or space only")
        function = {"max": "amax", "min": "amin", "linalg_vector_norm": "norm"}.get(call.name, call.name)
        function = function.removesuffix("_mean")
        attributes: dict[str, Any] = {"function": function, "dim": dims, "keepdim": bool(call.get("keepdim"))}
        if function in ("std", "var"):
            correction = call.get("correction", None if call.get("unbiased", True) else 0)
            attributes["correction"] = 1.0 if correction is None else float(correction)
        if function == "norm":
            attributes["order"] = float(call.get("ord", 2.0))
        name = builder.add(self.name, (x,), call.shape, label=call.name, attributes=attributes)
        if call.name in ("max", "min"):  # returns indices too
            refused = Refused("gives the index of the largest or smallest value", "use its values only")
            return name, builder.write_refused((x,), call.shape, call.name, refused)
        if not call.name.endswith("_mean"):
            return name
        mean = {"dim": dims, "keepdim": attributes["keepdim"]}
        return name, builder.add("mean", (x,), call.shape, attributes=mean)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """As for a mean."""
        return OPERATIONS["mean"].channel_axis(at, axes)

    def work(self, at: NodeContext) -> int:
        return prod(at.inputs[0])
