"""Operations with a weight and a bias: convolutions and linear layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.contract import PRODUCTS, write_product
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.shape import write_reshape
from rheobase.graph.operations.words import Value, Words
from rheobase.graph.trace.call import Call, Fixed, whole_numbers

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

# The result for an image must not depend on its batch. For few rows, matrix kernels use another algorithm, which rounds
# differently (measured; the number of rows depends on the processor). They are never called with fewer rows than these.
MIN_LINEAR_ROWS = 16
MIN_CONV_ROWS, MIN_CONV_ROWS_ONE_THREAD = 2, 16


def in_memory_format(x: Tensor) -> Tensor:
    """Channels last for batches of 2-D maps and their weights, which is faster on a CPU (measured)."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def _with_rows(x: Tensor, rows: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)`` for ``x`` [B, ...], computed on at least ``rows`` rows by repeating those of ``x``."""
    n = x.shape[0]
    if n >= rows or n == 0:
        return function(x)
    return function(torch.cat([x] * -(-rows // n))[:rows])[:n]


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
            if (f := self.channel_vector(factor)) is None:
                return None
            changed["weight"] = weight * (self.along_outputs(at, f) if f.dim() else f)
            if bias is not None:
                bias = changed["bias"] = bias * f
        if offset is not None:
            if (o := self.channel_vector(offset)) is None:
                return None
            o = o.expand(at.shape[self.channels])
            changed["bias"] = o if bias is None else bias + o
        return changed

    def synapses(self, at: NodeContext) -> Synapses:
        return "weights"

    def entries(self, x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
        """Compute the products with every non-zero weight replaced by 1, without the bias."""
        return self.products(x, (weight != 0).to(x.dtype), None, **attributes)

    def regressors(self, x: Tensor, *, weight: Tensor, **attributes: Any) -> Tensor | None:
        """The inputs that the outputs are products of, to fit the weight by linear regression; None if not supported.

        Returns:
            [positions, G, F]: for G groups of output channels, the F inputs, in the order of
            ``weight[channel].flatten()``.
        """
        return None

    def dense_products(self, at: NodeContext) -> int:
        """Number of outputs times the number of weights of an output channel."""
        return prod(at.shape) * prod(at.parameters["weight"].shape[1:])


class Convolution(Weighted):
    """A convolution in 1, 2 or 3 dimensions; lists of attributes have one number per spatial axis."""

    transposed: ClassVar[bool]

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
        output_padding: Any = (0,),
    ) -> Tensor:
        a: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        a["output_padding"] = output_padding
        # on one thread, PyTorch uses its own kernel instead of oneDNN for small batches and maps
        rows = MIN_CONV_ROWS if torch.get_num_threads() > 1 else MIN_CONV_ROWS_ONE_THREAD
        return _with_rows(in_memory_format(x), rows, lambda y: self.products(y, weight, bias, **a))

    def products(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, output_padding: Any = (0,), **attributes: Any
    ) -> Tensor:
        attributes = {**attributes, "transposed": self.transposed, "output_padding": output_padding}
        return torch.convolution(x, weight, bias, **attributes)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, after a padding node if ``padding="same"`` pads one pixel more on one side."""
        weight = call.weight("weight")
        assert weight is not None
        x: str = call.input("input")
        axes, numbers = weight.value.dim() - 2, dict(call.arguments)
        if numbers["padding"] == "valid":
            numbers["padding"] = 0
        if numbers["padding"] == "same":
            kernel = weight.value.shape[2:]
            x, numbers["padding"] = _pad_to_same(builder, x, kernel, whole_numbers(numbers["dilation"], axes))
        names = [name for name in ("stride", "padding", "output_padding", "dilation") if name in numbers]
        attributes: dict[str, Any] = {name: whole_numbers(numbers[name], axes) for name in names}
        attributes["groups"] = call["groups"]
        parameters = {"weight": weight, "bias": call.weight("bias")}
        return builder.add(self.name, (x,), call.shape, attributes=attributes, parameters=parameters)

    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        return _along(at, factor, first=self.transposed)

    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        return _along(at, factor, first=not self.transposed)


def _along(at: NodeContext, factor: Tensor, first: bool) -> Tensor:
    """A factor along the first axis of the weight, or along the second, which has the channels of one group."""
    groups, (rows, columns, *kernel) = at.attributes["groups"], at.parameters["weight"].shape
    if not first:
        factor = factor.reshape(groups, 1, columns).expand(groups, rows // groups, columns)
    return factor.reshape(rows, -1, *(1 for _ in kernel))


def _pad_to_same(builder: Builder, x: str, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[str, list[int]]:
    """The input and the padding for ``padding="same"``, after a padding node for pixels on one side only."""
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in totals):
        channels, *space = builder.shapes[x]
        shape = (channels, *(size + total % 2 for size, total in zip(space, totals, strict=True)))
        pad = [side for total in reversed(totals) for side in (0, total % 2)]
        x = builder.add("pad", (x,), shape, attributes={"pad": pad, "mode": "constant", "value": 0.0})
    return x, [total // 2 for total in totals]


@built_in
class Conv(Convolution):
    """Convolution, given by the weight [C out, C in / groups, ...]."""

    name = "conv"
    traced_from = ("conv1d", "conv2d", "conv3d")
    modules = ("Conv1d", "Conv2d", "Conv3d")
    transposed = False

    def regressors(self, x: Tensor, *, weight: Tensor, groups: int = 1, **attributes: Any) -> Tensor:
        """The patches of the input, computed as a convolution with one kernel for each element of a patch."""
        size = weight[0].numel()
        one_hot = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *weight.shape[1:])
        attributes.pop("bias", None)
        patches = self.products(
            x, one_hot.repeat(groups, *(1,) * (weight.dim() - 1)), None, groups=groups, **attributes
        )
        return patches.movedim(1, -1).reshape(-1, groups, size)

    def lower(self, words: Words, node: Node) -> Value:
        return words.convolution(node)


@built_in
class ConvTranspose(Convolution):
    """Transposed convolution, given by the weight [C in, C out / groups, ...]."""

    name = "conv_transpose"
    traced_from = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "col2im")
    modules = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Fold")
    transposed = True

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node; ``F.fold`` [C k, L] -> [C, H, W] is one whose kernels have a single 1."""
        return super().trace(builder, call) if call.name != "col2im" else self._write_fold(builder, call)

    def _write_fold(self, builder: Builder, call: Call) -> str:
        names = ("output_size", "kernel_size", "stride", "padding", "dilation")
        size, kernel, stride, padding, dilation = (whole_numbers(call[name], 2) for name in names)
        axes = list(zip(size, kernel, stride, padding, dilation, strict=True))
        places = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
        rest = [(n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in axes]
        elements, (columns, _) = prod(kernel), builder.shapes[call.input("self")]
        x = write_reshape(builder, call.input("self"), (columns, *places))
        one_hot = torch.eye(elements, dtype=builder.dtype).reshape(elements, 1, *kernel)
        weight = Fixed(one_hot.repeat(columns // elements, 1, 1, 1))
        attributes: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": rest}
        attributes |= {"dilation": dilation, "groups": columns // elements}
        return builder.add(self.name, (x,), call.shape, attributes=attributes, parameters={"weight": weight})

    def dense_products(self, at: NodeContext) -> int:
        """Number of positions of the input times the number of weights."""
        return prod(at.inputs[0][1:]) * at.parameters["weight"].numel()


@built_in
class Linear(Weighted):
    """Matrix product over the last axis; weight [C out, C in]."""

    name = "linear"
    traced_from = ("linear", *PRODUCTS)
    modules = ("Linear",)
    channels = -1

    def apply(self, x: Tensor, *, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _with_rows(x.contiguous(), MIN_LINEAR_ROWS, lambda y: F.linear(y, weight, bias))

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None, **_: Any) -> Tensor:
        return F.linear(x, weight, bias)

    def regressors(self, x: Tensor, *, weight: Tensor, **attributes: Any) -> Tensor:
        return x.reshape(-1, 1, x.shape[-1])

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, or those of another product with constants (:mod:`rheobase.graph.operations.contract`)."""
        if call.name != "linear":
            return write_product(builder, call)
        parameters = {"weight": call.weight("weight"), "bias": call.weight("bias")}
        return builder.add(self.name, (call.input("input"),), call.shape, parameters=parameters)

    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        return factor

    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        return factor.unsqueeze(-1)

    def lower(self, words: Words, node: Node) -> Value:
        return words.affine(node)
