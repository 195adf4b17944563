"""Operations over spatial windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rheobase.graph.operations.factors import constant_along
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled


class Spatial(Operation):
    """An operation on the spatial axes of [B, C, ...], the same for each channel."""

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output if it is constant in each channel."""
        (factor,) = factors
        assert factor is not None
        return ({}, factor) if constant_along(factor, range(1, len(at.inputs[0]))) else None


def sum_over_windows(x: Tensor, axes: int, along: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Sum ``x`` over the windows of an operation that is a product of one-dimensional ones over the last axes.

    Args:
        x: [B, C, ...].
        axes: number of axes of the operation.
        along: (x, i) -> the operation [B, 1, n] -> [B, 1, m] along axis i, from 0; its factors are replaced by 1.
    """
    for i in range(axes):
        axis = x.dim() - axes + i
        factors = along(torch.eye(x.shape[axis])[:, None], i)[:, 0]
        enters = (factors != 0).float().to(x)  # [n, m]: 1 if position n enters window m
        x = torch.tensordot(x, enters, dims=([axis], [0])).movedim(-1, axis)
    return x
