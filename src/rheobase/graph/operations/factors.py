"""Helpers for factors that broadcast against a sample."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def constant_along(factor: Tensor, axes: Iterable[int]) -> bool:
    """True if a factor is constant along these axes of a sample."""
    return factor.dim() == 0 or all(factor.shape[axis] == 1 for axis in axes)


def compact(factor: Tensor) -> Tensor:
    """Reduce a factor to size 1 along every axis along which it is constant."""
    for axis in range(factor.dim()):
        first = factor.narrow(axis, 0, 1)
        if bool((factor == first).all()):
            factor = first
    return factor
