"""Memory layout and batch sizes for which an image's result does not depend on the batch that it is in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# An image's result must not depend on the batch. Matrix kernels take another path, and round otherwise, for few rows
# (found by measurement; how few depends on the processor), so they are never called with fewer rows than these.
MIN_LINEAR_ROWS = 16
MIN_CONV_ROWS, MIN_CONV_ROWS_ONE_THREAD = 2, 16


def in_memory_format(x: Tensor) -> Tensor:
    """Channels last for batches of 2-D maps and their weights: faster on a CPU (measured), the same function."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def with_rows(x: Tensor, rows: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)`` for ``x`` [B, ...], computed on at least ``rows`` rows: those of ``x``, repeated."""
    n = x.shape[0]
    if n >= rows or n == 0:
        return function(x)
    return function(torch.cat([x] * -(-rows // n))[:rows])[:n]


def conv_rows() -> int:
    """Fewest rows that a convolution is called with."""
    # on one thread PyTorch leaves oneDNN for a kernel of its own where batch and maps are small
    return MIN_CONV_ROWS if torch.get_num_threads() > 1 else MIN_CONV_ROWS_ONE_THREAD
