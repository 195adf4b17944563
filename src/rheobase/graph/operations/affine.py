"""Multiplication by constants and addition of constants, per element or per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused, one_for_all, reference

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
        """Multiply, then add."""
        if scale is not None:
            x = x * scale
        return x if shift is None else x + shift

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node for a product with a constant, a quotient by a constant, or a negation."""
        if call.name == "neg":
            return write_affine(builder, call.input("self"), call.shape, scale=-1.0)
        x, factor = call["self"], call["other"]
        if isinstance(x, Ref) and isinstance(factor, Ref):
            raise Refused(
                "multiplies two activations, which is not linear",
                "train the network without the product",
            )
        if call.name == "mul":
            x, factor = (x, factor) if isinstance(x, Ref) else (factor, x)
            return write_affine(builder, x, call.shape, scale=factor)
        if call.get("rounding_mode"):
            raise Refused("rounds the quotient", "divide without rounding")
        x = reference(x)
        reciprocal = Fixed(1.0 / factor.value) if isinstance(factor, Fixed) else 1.0 / factor
        return write_affine(builder, x, call.shape, scale=reciprocal)

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
        """``"scale"``, or ``"route"`` without a scale."""
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
        tensor = torch.as_tensor(fixed.value)
        if tensor.dtype == torch.float64 or not tensor.is_floating_point():
            tensor = tensor.float()
        if tensor.dim() == len(shape) + 1:
            tensor = one_for_all(tensor)[0]
        return Fixed(tensor, fixed.name)

    return builder.add("affine", (x,), shape, parameters={"scale": constant(scale), "shift": constant(shift)})


def _of_channels(words: Words, node: Node, argument: str) -> Tensor | None:
    """A parameter as one number per channel."""
    tensor = words.parameter(node, argument)
    if tensor is None:
        return None
    tensor = tensor.double().cpu()
    axes = len(node.shape)
    full = tensor.reshape((1,) * (axes - tensor.dim()) + tuple(tensor.shape)).expand(node.shape).flatten(1)
    if axes > 1 and not bool((full == full[:, :1]).all()):
        raise NotExpressible(f"has a {argument} that differs between pixels")
    return full[:, 0] if axes > 1 else tensor.expand(node.shape)


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
        """Normalise."""
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node; weight and bias are 1 and 0 if the call has none."""
        mean, var = call["running_mean"], call["running_var"]
        parameters = {
            "weight": call.weight("weight") or Fixed(torch.ones_like(mean.value)),
            "bias": call.weight("bias") or Fixed(torch.zeros_like(mean.value)),
            "running_mean": mean,
            "running_var": var,
        }
        attributes = {"eps": call["eps"]}
        return builder.add(self.name, (call.input("input"),), call.shape, attributes=attributes, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        """Axis 1."""
        return 1

    def synapses(self, at: NodeContext) -> Synapses:
        """``"scale"``."""
        return "scale"

    def entries(self, x: Tensor, **_: Any) -> Tensor:
        """Each element once."""
        return x
