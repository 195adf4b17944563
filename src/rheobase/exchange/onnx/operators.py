"""Operations of ONNX whose shapes and indices are numbers, so that PyTorch can trace them.

onnx2torch keeps them as tensors, from which ``torch.export`` cannot read a shape. They are added to onnx2torch by its
own ``add_converter``, in the domain of this package, to which :mod:`rheobase.exchange.onnx.lowering` writes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.exchange.onnx.lowering import DOMAIN
from rheobase.exchange.onnx.packages import require_onnx2torch

_LINEAR = ("linear", "bilinear", "trilinear")
_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


class Reshape(nn.Module):
    """A shape with at most one axis, -1, that takes what the others leave."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Reshape."""
        return x.reshape(self.shape)


class Clip(nn.Module):
    """A clip with the bounds that are given."""

    def __init__(self, min: float | None, max: float | None) -> None:
        super().__init__()
        self.min, self.max = min, max

    def forward(self, x: Tensor) -> Tensor:
        """Clip."""
        return torch.clamp(x, self.min, self.max)


class Pad(nn.Module):
    """Padding, with ONNX's order of numbers: before every axis, then after every axis."""

    def __init__(self, pads: Sequence[int], mode: str, value: float) -> None:
        super().__init__()
        half = len(pads) // 2
        pairs = list(zip(pads[:half], pads[half:], strict=True))
        while pairs and pairs[0] == (0, 0):  # torch pads inner axes by a mirror only if it gets no others
            pairs.pop(0)
        self.pads, self.mode, self.value = [n for pair in reversed(pairs) for n in pair], mode, value

    def forward(self, x: Tensor) -> Tensor:
        """Pad."""
        if self.mode == "constant":
            return F.pad(x, self.pads, value=self.value)
        return F.pad(x, self.pads, mode=self.mode)


class Split(nn.Module):
    """Sections of one axis."""

    def __init__(self, sizes: Sequence[int], axis: int) -> None:
        super().__init__()
        self.sizes, self.axis = list(sizes), axis

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Split."""
        found = torch.split(x, self.sizes, self.axis)
        return found if len(found) > 1 else found[0]


class Slice(nn.Module):
    """Slices with positive steps."""

    def __init__(self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> None:
        super().__init__()
        self.slices = {axis: slice(*of) for axis, *of in zip(axes, starts, ends, steps, strict=True)}

    def forward(self, x: Tensor) -> Tensor:
        """Slice."""
        slices = {axis % x.dim(): of for axis, of in self.slices.items()}
        return x[tuple(slices.get(axis, slice(None)) for axis in range(x.dim()))]


class Gather(nn.Module):
    """Constant positions of one axis; a single number removes the axis."""

    def __init__(self, indices: Sequence[int], axis: int, keeps: bool) -> None:
        super().__init__()
        self.indices, self.axis, self.keeps = list(indices), axis, keeps

    def forward(self, x: Tensor) -> Tensor:
        """Select."""
        if not self.keeps:
            return x.select(self.axis, self.indices[0])
        return x[(slice(None),) * (self.axis % x.dim()) + (self.indices,)]


class Resize(nn.Module):
    """Interpolation of images to a size."""

    def __init__(self, sizes: Sequence[int], mode: str, aligned: bool | None) -> None:
        super().__init__()
        self.sizes, self.mode, self.aligned = tuple(sizes), mode, aligned

    def forward(self, x: Tensor) -> Tensor:
        """Resize."""
        return F.interpolate(x, self.sizes, mode=self.mode, align_corners=self.aligned)


def _resize(sizes: Sequence[int], mode: str, aligned: int) -> nn.Module:
    if mode == "nearest":
        return Resize(sizes, mode, None)
    if mode != "linear" or len(sizes) > len(_LINEAR):
        raise NotImplementedError(f"mode {mode!r} for {len(sizes)} axes")
    return Resize(sizes, _LINEAR[len(sizes) - 1], bool(aligned))


def _clip(min: float | None = None, max: float | None = None) -> nn.Module:
    """The module that PyTorch has for these bounds, so that a user recognises it."""
    if (min, max) == (0, None):
        return nn.ReLU()
    if (min, max) == (0, 6):
        return nn.ReLU6()
    return Clip(min, max) if min is None or max is None or min >= max else nn.Hardtanh(min, max)


def _pad(pads: Sequence[int], mode: str, value: float) -> nn.Module:
    if mode not in _MODES:
        raise NotImplementedError(f"padding mode {mode!r}")
    return Pad(pads, _MODES[mode], value)


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "Reshape": Reshape,
    "Clip": _clip,
    "Pad": _pad,
    "Resize": _resize,
    "Split": Split,
    "Slice": Slice,
    "Gather": lambda indices, axis, keeps: Gather(indices, axis, bool(keeps)),
}
"""Modules by the kind of node; the arguments are its attributes."""


def _linear(node: Any, graph: Any) -> nn.Module:
    weight = graph.initializers[node.input_values[1]].to_torch()
    bias = graph.initializers[node.input_values[2]].to_torch() if len(node.input_values) > 2 else None
    inputs, outputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None)
    layer.weight.data = weight.T.contiguous()
    if bias is not None:
        layer.bias.data = bias
    return layer


@functools.cache
def register() -> None:
    """Add the operations to onnx2torch."""
    add_converter = require_onnx2torch("node_converters.registry").add_converter
    common = require_onnx2torch("utils.common")

    def result(node: Any, module: nn.Module) -> Any:
        return common.OperationConverterResult(module, common.OnnxMapping(node.input_values[:1], node.output_values))

    for kind, make in _MODULES.items():
        add_converter(kind, 1, DOMAIN)(lambda node, graph, make=make: result(node, make(**node.attributes)))
    add_converter("Linear", 1, DOMAIN)(lambda node, graph: result(node, _linear(node, graph)))
