"""Factors that broadcast against a sample, as operations move them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def constant_along(factor: Tensor, axes: Iterable[int]) -> bool:
    """Whether a factor is one number along these axes of a sample."""
    return factor.dim() == 0 or all(factor.shape[axis] == 1 for axis in axes)


def compact(factor: Tensor) -> Tensor:
    """A factor with size 1 along every axis that it does not vary along."""
    for axis in range(factor.dim()):
        first = factor.narrow(axis, 0, 1)
        if bool((factor == first).all()):
            factor = first
    return factor
