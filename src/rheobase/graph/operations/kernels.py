"""Memory layout, and minimum batch sizes for which the result for an image does not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The result for an image must not depend on its batch. For few rows, matrix kernels use another algorithm, which rounds
# differently (measured; the number of rows depends on the processor). They are never called with fewer rows than these.
MIN_LINEAR_ROWS = 16
MIN_CONV_ROWS, MIN_CONV_ROWS_ONE_THREAD = 2, 16


def in_memory_format(x: Tensor) -> Tensor:
    """Channels last for batches of 2-D maps and their weights, which is faster on a CPU (measured)."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def with_rows(x: Tensor, rows: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)`` for ``x`` [B, ...], computed on at least ``rows`` rows by repeating those of ``x``."""
    n = x.shape[0]
    if n >= rows or n == 0:
        return function(x)
    return function(torch.cat([x] * -(-rows // n))[:rows])[:n]


def conv_rows() -> int:
    """Minimum number of rows in a call of a convolution."""
    # on one thread, PyTorch uses its own kernel instead of oneDNN for small batches and maps
    return MIN_CONV_ROWS if torch.get_num_threads() > 1 else MIN_CONV_ROWS_ONE_THREAD
