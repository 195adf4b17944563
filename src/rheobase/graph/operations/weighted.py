"""Operations with a weight and a bias: convolutions and linear layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.kernels import MIN_LINEAR_ROWS, conv_rows, in_memory_format, with_rows
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused, whole_numbers

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


class Weighted(Operation):
    """Products with a ``weight``, plus a ``bias`` per output channel; batch normalisation is folded into both.

    Attributes:
        channels: axis of a sample that holds the channels, in the input and in the output.
    """

    makes_new_memory = True
    trained = ("weight", "bias")
    channels: ClassVar[int] = 0

    @abstractmethod
    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None, **attributes: Any) -> Tensor:
        """Compute the products and add the bias, for a batch of any size."""

    @abstractmethod
    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """A factor [C] of the input channels, broadcastable to the weight."""

    @abstractmethod
    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """A factor [C] of the output channels, broadcastable to the weight."""

    def channel_vector(self, value: Tensor) -> Tensor | None:
        """A factor or offset as [] or [C]; None if it varies along another axis."""
        if value.numel() == 1:
            return value.reshape(())
        return value.reshape(-1) if value.numel() == value.shape[self.channels] else None

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        """The axis of the output channels of the weight."""
        return range(len(at.shape))[self.channels] + 1

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move one factor per channel into the weight."""
        (factor,) = factors
        assert factor is not None
        p, weight = self.channel_vector(factor), at.parameters["weight"]
        if p is None:
            return None
        return {"weight": weight * (self.along_inputs(at, p) if p.dim() else p)}, None

    def scale_output(
        self, at: NodeContext, factor: Tensor | None, offset: Tensor | None
    ) -> Mapping[str, Tensor] | None:
        """Move one factor or offset per channel into the weight and the bias."""
        weight, bias = at.parameters["weight"], at.parameters.get("bias")
        changed: dict[str, Tensor] = {}
        if factor is not None:
            f = self.channel_vector(factor)
            if f is None:
                return None
            changed["weight"] = weight * (self.along_outputs(at, f) if f.dim() else f)
            if bias is not None:
                bias = changed["bias"] = bias * f
        if offset is not None:
            o = self.channel_vector(offset)
            if o is None:
                return None
            o = o.expand(at.shape[self.channels])
            changed["bias"] = o if bias is None else bias + o
        return changed

    def synapses(self, at: NodeContext) -> Synapses:
        """``"weights"``."""
        return "weights"

    def entries(self, x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
        """Compute the products with every non-zero weight replaced by 1, without the bias."""
        return self.products(x, (weight != 0).to(x.dtype), None, **attributes)

    def dense_products(self, at: NodeContext) -> int:
        """Number of outputs times the number of weights of an output channel."""
        return prod(at.shape) * prod(at.parameters["weight"].shape[1:])


@built_in
class Conv(Weighted):
    """Convolution in 1, 2 or 3 dimensions, given by the weight [C out, C in / groups, ...]."""

    name = "conv"
    traced_from = ("conv1d", "conv2d", "conv3d")
    modules = ("Conv1d", "Conv2d", "Conv3d")

    def apply(
        self,
        x: Tensor,
        *,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor:
        """Convolve."""
        a = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return with_rows(in_memory_format(x), conv_rows(), lambda y: self.products(y, weight, bias, **a))

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None, **attributes: Any) -> Tensor:
        """Call the kernel."""
        function: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        return function(x, weight, bias, **attributes)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, after a padding node if ``padding="same"`` pads one pixel more on one side."""
        weight = call.weight("weight")
        assert weight is not None
        axes = weight.value.dim() - 2
        x: str = call.input("input")
        padding, dilation = call["padding"], whole_numbers(call["dilation"], axes)
        if padding == "valid":
            padding = 0
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, weight.value.shape[2:], strict=True)]
            sides = [(t // 2, t - t // 2) for t in totals]
            padding = [left for left, _ in sides]
            if any(left != right for left, right in sides):
                extra = [side for left, right in reversed(sides) for side in (0, right - left)]
                channels, *space = builder.shapes[x]
                space = [size + right - left for size, (left, right) in zip(space, sides, strict=True)]
                attributes = {"pad": extra, "mode": "constant", "value": 0.0}
                x = builder.add("pad", (x,), (channels, *space), attributes=attributes)
        attributes = {
            "stride": whole_numbers(call["stride"], axes),
            "padding": whole_numbers(padding, axes),
            "dilation": dilation,
            "groups": call["groups"],
        }
        parameters = {"weight": weight, "bias": call.weight("bias")}
        return builder.add(self.name, (x,), call.shape, attributes=attributes, parameters=parameters)

    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Repeat the factors of a group's inputs for each of its outputs."""
        groups, (out, into, *kernel) = at.attributes["groups"], at.parameters["weight"].shape
        rows = factor.reshape(groups, 1, into).expand(groups, out // groups, into)
        return rows.reshape(out, into, *(1 for _ in kernel))

    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Along the first axis of the weight."""
        return factor.reshape(-1, *(1,) * (at.parameters["weight"].dim() - 1))

    def lower(self, words: Words, node: Node) -> Value:
        """Write a convolution."""
        return words.convolution(node)


@built_in
class ConvTranspose(Weighted):
    """Transposed convolution in 1, 2 or 3 dimensions, given by the weight [C in, C out / groups, ...]."""

    name = "conv_transpose"
    traced_from = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    modules = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")

    def apply(
        self,
        x: Tensor,
        *,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any,
        padding: Any,
        output_padding: Any,
        groups: int,
        dilation: Any,
    ) -> Tensor:
        """Convolve."""
        a = {"stride": stride, "padding": padding, "output_padding": output_padding}
        a |= {"groups": groups, "dilation": dilation}
        return with_rows(in_memory_format(x), conv_rows(), lambda y: self.products(y, weight, bias, **a))

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None, **attributes: Any) -> Tensor:
        """Call the kernel."""
        function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
        return function(x, weight, bias, **attributes)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
        weight = call.weight("weight")
        assert weight is not None
        axes = weight.value.dim() - 2
        names = ("stride", "padding", "output_padding", "dilation")
        attributes = {**{name: whole_numbers(call[name], axes) for name in names}, "groups": call["groups"]}
        parameters = {"weight": weight, "bias": call.weight("bias")}
        return builder.add(self.name, (call.input("input"),), call.shape, attributes=attributes, parameters=parameters)

    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """First axis of the weight."""
        return factor.reshape(-1, *(1,) * (at.parameters["weight"].dim() - 1))

    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Repeat the factors of a group's outputs for each of its inputs."""
        groups, (into, out, *kernel) = at.attributes["groups"], at.parameters["weight"].shape
        rows = factor.reshape(groups, 1, out).expand(groups, into // groups, out)
        return rows.reshape(into, out, *(1 for _ in kernel))

    def dense_products(self, at: NodeContext) -> int:
        """Number of positions of the input times the number of weights."""
        return prod(at.inputs[0][1:]) * at.parameters["weight"].numel()

    def lower(self, words: Words, node: Node) -> Value:
        """Raise NotExpressible."""
        raise NotExpressible("is a transposed convolution")


@built_in
class Linear(Weighted):
    """Matrix product over the last axis; weight [C out, C in]."""

    name = "linear"
    traced_from = ("linear", "matmul", "mm", "addmm")
    modules = ("Linear",)
    channels = -1

    def apply(self, x: Tensor, *, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute x Wᵀ + b."""
        return with_rows(x, MIN_LINEAR_ROWS, lambda y: F.linear(y, weight, bias))

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None, **_: Any) -> Tensor:
        """Call the kernel."""
        return F.linear(x, weight, bias)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node; the matrix of a matrix product is transposed to the weight."""
        if call.name != "linear":
            return self._trace_product(builder, call)
        parameters = {"weight": call.weight("weight"), "bias": call.weight("bias")}
        return builder.add(self.name, (call.input("input"),), call.shape, parameters=parameters)

    def _trace_product(self, builder: Builder, call: Call) -> str:
        added = "mat1" in call  # addmm: beta * self + alpha * mat1 @ mat2
        left, right = ("mat1", "mat2") if added else ("self", "mat2" if "mat2" in call else "other")
        if isinstance(call[left], Ref) and isinstance(call[right], Ref):
            raise Refused("multiplies two activations, which is not linear", "multiply by a fixed matrix")
        weight = call.weight(right)
        if weight is None or weight.value.dim() != 2:
            raise Refused("multiplies by a constant that is not a matrix", "use nn.Linear")
        bias = call.weight("self") if added else None
        if added and (call["alpha"] != 1 or call["beta"] != 1):
            raise Refused("scales a matrix product", "use nn.Linear")
        parameters = {"weight": Fixed(weight.value.T.contiguous()), "bias": bias}
        return builder.add(self.name, (call.input(left),), call.shape, label="linear", parameters=parameters)

    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Along the last axis of the weight."""
        return factor

    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        """Along the first axis of the weight."""
        return factor.unsqueeze(-1)

    def lower(self, words: Words, node: Node) -> Value:
        """Write an affine node."""
        return words.affine(node)
