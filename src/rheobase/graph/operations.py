"""The closed set of operations a graph may hold between activation sites.

Every operation here is affine in its inputs, ``op(x) = A x + b``, so that its value on the time-mean of a spike
train is the time-mean of its values (Rueckauer et al. 2017, Eq. 5). Two operations are not, and stand apart:
``site`` (an activation, becomes a neuron) and ``max_pool`` (the caller must choose what becomes of it).

All tensors are batch-first. Attributes are plain JSON values; parameters are tensors that the graph holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.activations.activation import Rounding
from rheobase.activations.staircase import staircase

# An image's result must not depend on the batch it came in. Matrix kernels take another path, and round otherwise, for
# few rows (found by measurement; how few depends on the processor), so they are never given so few.
MIN_LINEAR_ROWS = 16
MIN_CONV_ROWS, MIN_CONV_ROWS_ONE_THREAD = 2, 16


def in_memory_format(x: Tensor) -> Tensor:
    """Channels last for batches of 2-D maps and their weights: faster on a CPU (measured), the same function."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def _with_rows(x: Tensor, rows: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    n = x.shape[0]
    if n >= rows or n == 0:
        return function(x)
    return function(torch.cat([x] * -(-rows // n))[:rows])[:n]


def _conv_rows() -> int:
    # on one thread PyTorch leaves oneDNN for a kernel of its own where batch and maps are small
    return MIN_CONV_ROWS if torch.get_num_threads() > 1 else MIN_CONV_ROWS_ONE_THREAD


def conv(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """Convolution in 1, 2 or 3 dimensions, by the weight's."""
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
    x = in_memory_format(x)
    return _with_rows(x, _conv_rows(), lambda y: function(y, weight, bias, stride, padding, dilation, groups))


def conv_transpose(
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
    """Transposed convolution in 1, 2 or 3 dimensions, by the weight's."""
    function = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[weight.dim()]
    x = in_memory_format(x)
    return _with_rows(
        x, _conv_rows(), lambda y: function(y, weight, bias, stride, padding, output_padding, groups, dilation)
    )


def linear(x: Tensor, *, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Matrix product over the last axis."""
    return _with_rows(x, MIN_LINEAR_ROWS, lambda y: F.linear(y, weight, bias))


def affine(x: Tensor, *, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """``x * scale + shift``; both broadcast against one sample."""
    if scale is not None:
        x = x * scale
    return x if shift is None else x + shift


def batch_norm(
    x: Tensor, *, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
) -> Tensor:
    """Batch normalisation with its running statistics, over axis 1."""
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)


def add(*xs: Tensor) -> Tensor:
    """Sum of the inputs, left to right."""
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def concat(*xs: Tensor, dim: int) -> Tensor:
    """Concatenation; inputs without a batch (constants) are repeated to the batch of the others."""
    batch = max(x.shape[0] for x in xs)
    return torch.cat([x if x.shape[0] == batch else x.expand(batch, *x.shape[1:]) for x in xs], dim)


def avg_pool(
    x: Tensor,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling in 1, 2 or 3 dimensions, by the kernel's."""
    if len(kernel_size) == 1:
        return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
    function = F.avg_pool2d if len(kernel_size) == 2 else F.avg_pool3d
    return function(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_avg_pool(x: Tensor, *, output_size: Any) -> Tensor:
    """Adaptive average pooling in 1, 2 or 3 dimensions."""
    function: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(output_size) - 1]
    return function(x, output_size)


def mean(x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
    """Mean over axes other than the batch."""
    return x.mean(dim, keepdim)


def reshape(x: Tensor, *, shape: list[int]) -> Tensor:
    """Any view of one sample: ``shape`` is the sample's new shape, the batch stays."""
    return x.reshape(x.shape[0], *shape)


def permute(x: Tensor, *, dims: list[int]) -> Tensor:
    """Permutation of axes that leaves the batch first."""
    return x.permute(dims)


def slice_(x: Tensor, *, dim: int, start: int, stop: int, step: int) -> Tensor:
    """``x[start:stop:step]`` along one axis."""
    return x[(slice(None),) * dim + (slice(start, stop, step),)]


def pad(x: Tensor, *, pad: list[int], mode: str, value: float | None) -> Tensor:
    """Padding by a constant or by the sample's own border."""
    return F.pad(x, pad, mode, value)


def upsample(x: Tensor, *, size: list[int], mode: str, align_corners: bool | None) -> Tensor:
    """Nearest or (bi-, tri-)linear interpolation to a fixed size."""
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)


def constant(*, value: Tensor) -> Tensor:
    """A tensor that does not depend on the input (``value`` has a batch of one)."""
    return value


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "linear": linear,
    "affine": affine,
    "batch_norm": batch_norm,
    "add": add,
    "concat": concat,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": adaptive_avg_pool,
    "mean": mean,
    "reshape": reshape,
    "permute": permute,
    "slice": slice_,
    "pad": pad,
    "upsample": upsample,
    "constant": constant,
}
"""Name of an operation in a graph file -> the function that computes it."""


def max_pool(
    x: Tensor,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool = False,
) -> Any:
    """Max pooling in 1, 2 or 3 dimensions; not linear, so not in ``OPERATIONS``."""
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_size) - 1]
    return function(x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)


def activation(
    x: Tensor,
    *,
    upper: float | None,
    levels: int | None = None,
    rounding: Rounding = "round",
    threshold: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """The activation of a site in the original network: ReLU, ReLU clipped at ``upper``, or a staircase.

    With ``overwrite`` the result is written over ``x``.
    """
    if levels is not None and threshold is not None:
        return staircase(x, threshold=threshold, levels=levels, rounding=rounding, overwrite=overwrite)
    if upper is None:
        return x.relu_() if overwrite else x.relu()
    return x.clamp_(0.0, upper) if overwrite else x.clamp(0.0, upper)
