"""Operations over spatial windows: mean pooling, max-pooling, interpolation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.affine import write_affine
from rheobase.graph.operations.operation import NodeContext, Passing, Synapses, built_in
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


class MeanPool(Passing):
    """Means over windows."""

    def synapses(self, at: NodeContext) -> Synapses:
        return "sum"

    @abstractmethod
    def window(self, at: NodeContext) -> Window:
        """Return the node as a sum over equal windows, for NIR and chips.

        Raises:
            NotExpressible: if windows differ.
        """


class Spatial(Passing):
    """An operation on the spatial axes of [B, C, ...], the same for each channel."""

    def trace(self, builder: Builder, call: Call) -> str:
        x = call.input("self", "input")
        return builder.add(self.name, (x,), call.shape, attributes=self.attributes(call, builder.shapes[x]))

    @abstractmethod
    def attributes(self, call: Call, shape: tuple[int, ...]) -> dict[str, Any]:
        """Attributes of the node for a call; ``shape``: that of a sample of its input."""

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor | None:
        """The factor, if it is constant in each channel."""
        return factor if factor[0].numel() == 1 else None


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
        if len(kernel_size) == 1 and divisor_override is not None:  # which avg_pool1d does not have
            size, step, pad = (1, *kernel_size), (1, *(stride or kernel_size)), (0, *padding)
            pooled = F.avg_pool2d(x.unsqueeze(2), size, step, pad, ceil_mode, count_include_pad, divisor_override)
            return pooled.squeeze(2)
        if len(kernel_size) == 1:
            return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
        pool = getattr(F, f"avg_pool{len(kernel_size)}d")
        return pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    def attributes(self, call: Call, shape: tuple[int, ...]) -> dict[str, Any]:
        return {**_window(call), **{name: call.get(name) for name in ("count_include_pad", "divisor_override")}}

    def entries(
        self, x: Tensor, *, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool = False, **_: Any
    ) -> Tensor:
        def pool(x: Tensor, axis: int) -> Tensor:
            return F.avg_pool1d(x, kernel_size[axis], (stride or kernel_size)[axis], padding[axis], ceil_mode)

        return _sum_over_windows(x, len(kernel_size), pool)

    def window(self, at: NodeContext) -> Window:
        a = at.attributes
        if a.get("ceil_mode") or (any(a["padding"]) and not a.get("count_include_pad", True)):
            raise NotExpressible("divides by the number of pixels in the window, which differs at the border")
        kernel = list(a["kernel_size"])
        return Window(
            kernel, list(a["stride"] or kernel), list(a["padding"]), a.get("divisor_override") or prod(kernel)
        )

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
        return getattr(F, f"adaptive_avg_pool{len(output_size)}d")(x, output_size)

    def attributes(self, call: Call, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"output_size": list(call.shape[1:])}

    def entries(self, x: Tensor, *, output_size: Any) -> Tensor:
        return _sum_over_windows(x, len(output_size), lambda x, axis: F.adaptive_avg_pool1d(x, output_size[axis]))

    def window(self, at: NodeContext) -> Window:
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

    def moved(self, at: NodeContext, factor: Tensor) -> Tensor | None:
        """The factor, if it is constant along the axes of the mean."""
        axes = [d - 1 for d in _dims(at)]
        if any(factor.shape[axis] != 1 for axis in axes):
            return None
        return factor if at.attributes["keepdim"] else factor.squeeze(axes)

    def entries(self, x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
        return x.sum(dim, keepdim)

    def window(self, at: NodeContext) -> Window:
        size = list(at.inputs[0][1:])
        if _dims(at) != list(range(2, len(size) + 2)):
            raise NotExpressible("is a mean over some axes only")
        return Window(size, size, [0] * len(size), prod(size))


def _dims(at: NodeContext) -> list[int]:
    return sorted(d % (len(at.inputs[0]) + 1) for d in at.attributes["dim"])


@built_in
class MaxPool(Spatial):
    """Max-pooling in 1, 2 or 3 dimensions. It is not affine: the caller of ``convert`` chooses its replacement."""

    name = "max_pool"
    traced_from = (
        *("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    )
    modules = ("MaxPool1d", "MaxPool2d", "MaxPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d")
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
        pool = getattr(F, f"max_pool{len(kernel_size)}d")
        return pool(x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)

    def attributes(self, call: Call, shape: tuple[int, ...]) -> dict[str, Any]:
        if call.name.startswith("adaptive"):
            size, out = shape[1:], call.shape[1:]
            if any(n % m for n, m in zip(size, out, strict=True)):
                text = f"pools {list(size)} to {list(out)} with windows of different sizes"
                raise Refused(text, "pool to a size that divides the input's, such as 1")
            kernel = [n // m for n, m in zip(size, out, strict=True)]
            none, one = [0] * len(kernel), [1] * len(kernel)
            return {"kernel_size": kernel, "stride": kernel, "padding": none, "ceil_mode": False, "dilation": one}
        window = _window(call)
        return {**window, "dilation": whole_numbers(call["dilation"], len(window["kernel_size"]))}


def _window(call: Call) -> dict[str, Any]:
    """Attributes of both average and max-pooling; the number of axes is in the call's name, ``avg_pool2d``."""
    axes = int(call.name[8])
    kernel = whole_numbers(call["kernel_size"], axes)
    stride = whole_numbers(call["stride"], axes) if call["stride"] else kernel
    padding = whole_numbers(call["padding"], axes)
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": call["ceil_mode"]}


@built_in
class Upsample(Spatial):
    """Interpolation to a fixed size: nearest, nearest-exact, (bi-, tri-)linear or bicubic, antialiased or not.

    ``scale`` has the factors along the axes, if the positions of the pixels follow from them and not from the sizes:
    7 pixels times 1.7 are 11 pixels, which are 1 / 1.7 pixels apart, not 7 / 11.
    """

    name = "upsample"
    traced_from = (
        *(f"{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
        *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    )
    modules = ("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d")

    def apply(
        self,
        x: Tensor,
        *,
        size: list[int],
        mode: str,
        align_corners: bool | None,
        scale: list[float] | None = None,
        antialias: bool = False,
    ) -> Tensor:
        to: dict[str, Any] = {"size": size} if scale is None else {"scale_factor": tuple(scale)}
        return F.interpolate(x, **to, mode=mode, align_corners=align_corners, antialias=antialias)

    def attributes(self, call: Call, shape: tuple[int, ...]) -> dict[str, Any]:
        kind = call.name.removeprefix("_").removeprefix("upsample_")
        mode = kind.removesuffix("_aa")[:-2].replace("_", "-")
        before, size = shape[1:], list(call.shape[1:])
        attributes = {"size": size, "mode": mode, "align_corners": call.get("align_corners")}
        scale = list(call.get("scale_factors") or [call[n] for n in call.arguments if n.startswith("scales")])
        given = None not in scale and len(scale) == len(size)
        if given and [n * factor for n, factor in zip(before, scale, strict=True)] != size:
            attributes["scale"] = [float(factor) for factor in scale]
        if kind.endswith("_aa"):
            attributes["antialias"] = True
        return attributes

    def synapses(self, at: NodeContext) -> Synapses:
        return "route" if at.attributes["mode"].startswith("nearest") else "interpolate"

    def entries(self, x: Tensor, *, size: list[int], scale: list[float] | None = None, **attributes: Any) -> Tensor:
        if attributes["mode"].startswith("nearest"):
            return self.apply(x, size=size, scale=scale, **attributes)

        def along(x: Tensor, axis: int) -> Tensor:
            """Interpolate along one axis, next to an axis of two equal pixels."""
            mode = "bicubic" if attributes["mode"] == "bicubic" else "bilinear"
            one = {**attributes, "mode": mode, "scale": None if scale is None else [scale[axis], 1.0]}
            # two, because for one PyTorch 2.13 mixes up the axes of the antialiased kernels
            return self.apply(x.unsqueeze(-1).repeat(1, 1, 1, 2), size=[size[axis], 2], **one)[..., 0]

        return _sum_over_windows(x, len(size), along)


def _sum_over_windows(x: Tensor, axes: int, along: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Sum ``x`` [B, C, ...] over the windows of a product of one-dimensional operations over its last ``axes`` axes.

    ``along(x, i)`` is the operation [B, 1, n] -> [B, 1, m] along axis i, from 0; its factors are replaced by 1.
    """
    for i in range(axes):
        axis = x.dim() - axes + i
        factors = along(torch.eye(x.shape[axis], dtype=torch.float64)[:, None], i)[:, 0]
        enters = (factors != 0).float().to(x)  # [n, m]: 1 if position n enters window m
        x = torch.tensordot(x, enters, dims=([axis], [0])).movedim(-1, axis)
    return x
