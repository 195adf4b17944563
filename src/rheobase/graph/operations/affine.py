"""Multiplication by constants, addition of constants, batch normalisation, sums, concatenations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.select import write_constant, write_expanded
from rheobase.graph.operations.shape import compact, write_reshape
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused, one_for_all, reference
from rheobase.graph.trace.refusals import product_refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


@built_in
class Affine(Operation):
    """``x * scale + shift``; both broadcast against one sample."""

    name = "affine"
    traced_from = ("mul", "div", "neg")
    makes_new_memory = True
    trained = ("scale", "shift")

    def apply(self, x: Tensor, *, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        x = x if scale is None else x * scale
        return x if shift is None else x + shift

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node for a product with a constant, a quotient by a constant, or a negation."""
        if call.name == "neg":
            return write_affine(builder, call.input("self"), call.shape, scale=-1.0)
        x, factor = call["self"], call["other"]
        if isinstance(x, Ref) and isinstance(factor, Ref):
            raise product_refused(builder, x, factor)
        if call.name == "mul":
            x, factor = (x, factor) if isinstance(x, Ref) else (factor, x)
        elif call.get("rounding_mode"):
            raise Refused("rounds the quotient", "divide without rounding")
        else:
            x, factor = reference(x), Fixed(1.0 / factor.value) if isinstance(factor, Fixed) else 1.0 / factor
        return write_affine(builder, x, call.shape, scale=factor)

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor into the scale."""
        (factor,) = factors
        assert factor is not None
        return {"scale": at.parameters["scale"] * factor if "scale" in at.parameters else factor}, None

    def scale_output(
        self, at: NodeContext, factor: Tensor | None, offset: Tensor | None
    ) -> Mapping[str, Tensor] | None:
        """Move both into the scale and the shift."""
        changed: dict[str, Tensor] = {}
        shift = at.parameters.get("shift")
        if factor is not None:
            changed["scale"] = at.parameters["scale"] * factor if "scale" in at.parameters else factor
            if shift is not None:
                shift = changed["shift"] = shift * factor
        if offset is not None:
            changed["shift"] = offset.reshape(offset.shape or (1,)) if shift is None else shift + offset
        return changed

    def synapses(self, at: NodeContext) -> Synapses:
        return "scale" if "scale" in at.parameters else "route"

    def entries(self, x: Tensor, *, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Each element once, at every position that it is broadcast to."""
        shapes = [parameter.shape for parameter in (scale, shift) if parameter is not None]
        return x.expand(torch.broadcast_shapes(x.shape, *shapes))

    def lower(self, words: Words, node: Node) -> Value:
        """Scale and shift the map of channels."""
        return words.mapped(node).scale(_of_channels(words, node, "scale"), _of_channels(words, node, "shift"))


def write_affine(builder: Builder, x: str, shape: tuple[int, ...], scale: Any = None, shift: Any = None) -> str:
    """Write ``x * scale + shift`` as a node; scalars become tensors, so that saving preserves their bits."""

    def constant(value: Any) -> Fixed | None:
        if value is None:
            return None
        fixed = value if isinstance(value, Fixed) else Fixed(value)
        tensor = torch.as_tensor(fixed.value, dtype=builder.dtype)
        return Fixed(one_for_all(tensor)[0] if tensor.dim() == len(shape) + 1 else tensor, fixed.name)

    return builder.add("affine", (x,), shape, parameters={"scale": constant(scale), "shift": constant(shift)})


def _of_channels(words: Words, node: Node, argument: str) -> Tensor | None:
    """A parameter as one number per channel."""
    tensor = words.parameter(node, argument)
    if tensor is None:
        return None
    full = tensor.double().cpu().expand(node.shape).reshape(node.shape[0], -1)
    if not bool((full == full[:, :1]).all()):
        raise NotExpressible(f"has a {argument} that differs between pixels")
    return full[:, 0]


@built_in
class BatchNorm(Operation):
    """Batch normalisation over axis 1 with running statistics; folded before conversion."""

    name = "batch_norm"
    traced_from = ("_native_batch_norm_legit_no_training",)
    modules = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
    makes_new_memory = True
    trained = ("weight", "bias")

    def apply(
        self, x: Tensor, *, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
    ) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node; weight and bias are 1 and 0 if the call has none."""
        x, mean = call.input("input"), call["running_mean"]
        parameters = {
            "weight": call.weight("weight") or Fixed(torch.ones_like(mean.value)),
            "bias": call.weight("bias") or Fixed(torch.zeros_like(mean.value)),
            "running_mean": mean,
            "running_var": call["running_var"],
        }
        return builder.add(self.name, (x,), call.shape, attributes={"eps": call["eps"]}, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        return 1

    def synapses(self, at: NodeContext) -> Synapses:
        return "scale"

    def entries(self, x: Tensor, **_: Any) -> Tensor:
        return x


@built_in
class Add(Operation):
    """Sum of the inputs, left to right."""

    name = "add"
    traced_from = ("add", "sub", "rsub")
    makes_new_memory = True

    def apply(self, *xs: Tensor) -> Tensor:
        return reduce(add, xs)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write a sum of two values, or an affine node if one is a constant."""
        left, right, alpha = call["self"], call["other"], call.get("alpha", 1)
        if call.name == "rsub":
            left, right = right, left
        sign = alpha if call.name == "add" else -alpha
        if isinstance(left, Ref) and isinstance(right, Ref):
            second = right if sign == 1 else write_affine(builder, right, builder.shapes[right], scale=float(sign))
            terms = tuple(write_expanded(builder, term, call.shape) for term in (left, second))
            return builder.add(self.name, terms, call.shape)
        if isinstance(left, Ref):
            shift = right if isinstance(right, Fixed) else Fixed(right)
            shift = shift if sign == 1 else Fixed(shift.value * sign)
            return write_affine(builder, left, call.shape, shift=shift)
        return write_affine(builder, reference(right), call.shape, scale=float(sign), shift=left)

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output if it is the same for all inputs."""
        first = factors[0]
        same = all(f is not None and first is not None and torch.equal(f, first) for f in factors)
        return ({}, first) if same else None

    def to_inputs(self, at: NodeContext, value: Tensor) -> Tensor:
        """The same value: a factor applies to all terms, an offset to one of them."""
        return value

    def synapses(self, at: NodeContext) -> Synapses:
        return "add"

    def lower(self, words: Words, node: Node) -> Value:
        """Write no node, because NIR adds the edges that enter a node."""
        return words.sum(node)


@built_in
class Concat(Operation):
    """Concatenation."""

    name = "concat"
    traced_from = ("cat", "stack")

    def apply(self, *xs: Tensor, dim: int) -> Tensor:
        return torch.cat(xs, dim)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, after nodes for constants and for the new axis of a stack."""
        dim = call["dim"] % (len(call.shape) + 1)
        if dim == 0:
            raise Refused("concatenates along the batch axis", "concatenate along channels or space")
        names = []
        for tensor in call["tensors"]:
            name = tensor
            if not isinstance(tensor, Ref):
                name = write_constant(builder, one_for_all(tensor.value))
            if call.name == "stack":
                old = builder.shapes[name]
                name = write_reshape(builder, name, (*old[: dim - 1], 1, *old[dim - 1 :]))
            if 0 not in builder.shapes[name]:
                names.append(name)
        return builder.add(self.name, tuple(names), call.shape, attributes={"dim": dim})

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Concatenate the factors like the inputs."""
        one = next(factor.new_ones(()) for factor in factors if factor is not None)
        given = [one if factor is None else factor for factor in factors]
        expanded = [factor.expand(shape) for factor, shape in zip(given, at.inputs, strict=True)]
        return {}, compact(torch.cat(expanded, at.attributes["dim"] - 1))

    def synapses(self, at: NodeContext) -> Synapses:
        return "route"

    def lower(self, words: Words, node: Node) -> Value:
        """Write a map for each input that pads its channels with zeros; NIR adds the edges."""
        if node.attributes["dim"] != 1:
            raise NotExpressible("concatenates along a spatial axis")
        sources: list[str] = []
        start = 0
        for i in range(len(node.inputs)):
            value = words.mapped(node, i)
            after = start + value.shape[0]
            sources += words.write(f"{node.name}_{i}", value.place(start, node.shape[0] - after)).sources
            start = after
        return Value(tuple(sources), node.shape)


@built_in
class ConstantTensor(Operation):
    """A tensor that does not depend on the images (``value`` has a batch of one), such as zeros to pad channels with.

    It reads the network's input for the size of the batch.
    """

    name = "constant"

    def apply(self, images: Tensor, *, value: Tensor) -> Tensor:
        return value.expand(len(images), *value.shape[1:])

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> None:
        return None
