"""Freed memory that the process keeps, for the next tensor."""

from __future__ import annotations

import ctypes
import os
import sys

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
"""Names of settings in glibc's malloc.h."""
_MOST = 2**31 - 1
"""The largest value of a setting."""


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees; return False, without effect, where glibc is not the C library.

    glibc returns each tensor of more than 32 MiB to the kernel when it is freed, and the next one consists of new
    pages, which must be cleared. With images of ImageNet's size that is half of the time of a simulation on a CPU
    (measured, docs/results.md); the process then takes up to 60 % more memory. It is a setting of the whole process, so
    only the command line calls this by itself, and not if ``MALLOC_MMAP_MAX_`` is set.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_MAX_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _MOST)])
