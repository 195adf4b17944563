"""Mean pooling and max-pooling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.affine import write_affine
from rheobase.graph.operations.factors import constant_along
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.windows import Spatial, sum_over_windows
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Refused, whole_numbers

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


class Window(NamedTuple):
    """Mean pooling as a sum over equal windows and a division; lists have one number per spatial axis."""

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    divisor: int


class MeanPool(Operation):
    """Means over windows."""

    def synapses(self, at: NodeContext) -> Synapses:
        """``"sum"``."""
        return "sum"

    @abstractmethod
    def window(self, at: NodeContext) -> Window:
        """Return the node as a sum over equal windows, for NIR and chips.

        Raises:
            NotExpressible: if windows differ.
        """


@built_in
class AvgPool(MeanPool, Spatial):
    """Average pooling in 1, 2 or 3 dimensions, given by the kernel size."""

    name = "avg_pool"
    traced_from = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
    modules = ("AvgPool1d", "AvgPool2d", "AvgPool3d")

    def apply(
        self,
        x: Tensor,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        """Pool."""
        if len(kernel_size) == 1:
            return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
        function = F.avg_pool2d if len(kernel_size) == 2 else F.avg_pool3d
        return function(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
        attributes = {
            **_window(call),
            "count_include_pad": call["count_include_pad"],
            "divisor_override": call.get("divisor_override"),
        }
        return builder.add(self.name, (call.input("self", "input"),), call.shape, attributes=attributes)

    def entries(
        self, x: Tensor, *, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool = False, **_: Any
    ) -> Tensor:
        """Sum over windows."""

        def pool(x: Tensor, axis: int) -> Tensor:
            kernel = kernel_size[axis]
            return F.avg_pool1d(x, kernel, stride[axis] if stride else kernel, padding[axis], ceil_mode)

        return sum_over_windows(x, len(kernel_size), pool)

    def window(self, at: NodeContext) -> Window:
        """Its window; refused if the divisor differs at the border."""
        a = at.attributes
        counted = a.get("count_include_pad", True) or not any(a["padding"])
        if a.get("ceil_mode") or not counted:
            raise NotExpressible("divides by the number of pixels in the window, which differs at the border")
        kernel = list(a["kernel_size"])
        divisor = a.get("divisor_override") or prod(kernel)
        return Window(kernel, list(a["stride"] or kernel), list(a["padding"]), divisor)

    def lower(self, words: Words, node: Node) -> Value:
        """Write a sum; the exporter moves the divisor into the weights that follow."""
        return words.sum_pool(node)


@built_in
class AdaptiveAvgPool(MeanPool, Spatial):
    """Average pooling to a size, in 1, 2 or 3 dimensions."""

    name = "adaptive_avg_pool"
    traced_from = tuple(f"{prefix}adaptive_avg_pool{n}d" for prefix in ("", "_") for n in (1, 2, 3))
    modules = ("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d")

    def apply(self, x: Tensor, *, output_size: Any) -> Tensor:
        """Pool."""
        function: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(output_size) - 1]
        return function(x, output_size)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
        attributes = {"output_size": list(call.shape[1:])}
        return builder.add(self.name, (call.input("self"),), call.shape, attributes=attributes)

    def entries(self, x: Tensor, *, output_size: Any) -> Tensor:
        """Sum over windows."""
        return sum_over_windows(x, len(output_size), lambda x, axis: F.adaptive_avg_pool1d(x, output_size[axis]))

    def window(self, at: NodeContext) -> Window:
        """Its window, if the input size is a multiple of the output size."""
        size, out = at.inputs[0][1:], at.attributes["output_size"]
        if any(n % m for n, m in zip(size, out, strict=True)):
            raise NotExpressible(f"pools {list(size)} to {list(out)} with windows of different sizes")
        kernel = [n // m for n, m in zip(size, out, strict=True)]
        return Window(kernel, kernel, [0] * len(size), prod(kernel))


@built_in
class Mean(MeanPool):
    """Mean over axes other than the batch."""

    name = "mean"
    traced_from = ("mean", "sum")

    def apply(self, x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
        """Take the mean."""
        return x.mean(dim, keepdim)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, and for a sum an affine node that multiplies it by the number of values."""
        x = call.input("self")
        shape = builder.shapes[x]
        rank = len(shape) + 1
        dims = sorted(d % rank for d in (call.get("dim") or range(rank)))
        if 0 in dims:
            raise Refused("averages over the batch", "average over channels or space only")
        attributes = {"dim": dims, "keepdim": bool(call.get("keepdim"))}
        name = builder.add(self.name, (x,), call.shape, attributes=attributes)
        if call.name == "sum":
            name = write_affine(builder, name, call.shape, scale=float(prod(shape[d - 1] for d in dims)))
        return name

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """The same axis, or axis 1 if the mean is over the channels."""
        (axis,) = axes
        if axis is None or at.attributes["keepdim"]:
            return axis
        dims = _dims(at)
        return 1 if axis in dims else axis - sum(d < axis for d in dims)

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output if it is constant along the axes of the mean."""
        (factor,) = factors
        assert factor is not None
        axes = [d - 1 for d in _dims(at)]
        if not constant_along(factor, axes):
            return None
        return {}, factor if at.attributes["keepdim"] or not factor.dim() else factor.squeeze(axes)

    def entries(self, x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
        """Sum."""
        return x.sum(dim, keepdim)

    def window(self, at: NodeContext) -> Window:
        """The whole map, if the mean is over all spatial axes."""
        size = list(at.inputs[0][1:])
        if _dims(at) != list(range(2, len(size) + 2)):
            raise NotExpressible("is a mean over some axes only")
        return Window(size, size, [0] * len(size), prod(size))


def _dims(at: NodeContext) -> list[int]:
    return sorted(d % (len(at.inputs[0]) + 1) for d in at.attributes["dim"])


def _window(call: Call) -> dict[str, Any]:
    """Attributes of both average and max-pooling; the number of axes is in the call's name, ``avg_pool2d``."""
    axes = int(call.name[8])
    kernel = whole_numbers(call["kernel_size"], axes)
    stride = whole_numbers(call["stride"], axes) if call["stride"] else kernel
    padding = whole_numbers(call["padding"], axes)
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": call["ceil_mode"]}


@built_in
class MaxPool(Spatial):
    """Max-pooling in 1, 2 or 3 dimensions. It is not affine: the caller of ``convert`` chooses its replacement."""

    name = "max_pool"
    traced_from = ("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
    modules = ("MaxPool1d", "MaxPool2d", "MaxPool3d")
    affine = False

    def apply(
        self,
        x: Tensor,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: bool,
        return_indices: bool = False,
    ) -> Any:
        """Pool; with ``return_indices``, also return the positions of the maxima."""
        function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_size) - 1]
        return function(x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
        window = _window(call)
        attributes = {**window, "dilation": whole_numbers(call["dilation"], len(window["kernel_size"]))}
        return builder.add(self.name, (call.input("self"),), call.shape, attributes=attributes)

    def lower(self, words: Words, node: Node) -> Value:
        """Raise NotExpressible."""
        raise NotExpressible("is max-pooling")
