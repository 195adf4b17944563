"""Activations that networks are trained with so that a spiking network can match them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase.errors import ModelError


class QCFS(nn.Module):
    r"""Quantisation clip-floor-shift activation (Bu et al. 2022, Eq. 15).

    .. math:: a = \frac{\theta}{L} \, \mathrm{clip}(\lfloor zL / \theta + 1/2 \rfloor, 0, L)

    The gradient passes straight through the floor: inside (0 < z < θ) ∂a/∂z = 1 and ∂a/∂θ = (a − z)/θ; above, 0 and 1;
    below, 0 and 0. At T = L an integrate-and-fire neuron with V0 = θ/2 and a constant current emits a on average.

    Args:
        levels: L >= 1; the activation takes the L + 1 values 0, θ/L, ..., θ.
        threshold: θ > 0, where training starts; a number, or a tensor [C] for one a channel.

    Raises:
        ModelError: for L < 1 or a θ that is not positive.

    Example:
        >>> import torch
        >>> QCFS(levels=4, threshold=1.0)(torch.tensor([[-1.0, 0.1, 0.2, 0.6, 3.0]])).detach()
        tensor([[0.0000, 0.0000, 0.2500, 0.5000, 1.0000]])
    """

    def __init__(self, levels: int, threshold: float | Tensor = 1.0) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            raise ModelError(f"is {levels!r}", where="levels", remedy="use a whole number from 1")
        if not isinstance(threshold, Tensor | float | int):
            raise ModelError(f"is {threshold!r}", where="threshold", remedy="use a positive number or a tensor")
        start = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
        if not bool((start > 0).all()):
            raise ModelError("is not positive", where="threshold", remedy="start from a percentile of the activation")
        self.levels = levels
        self.threshold = nn.Parameter(start)

    def forward(self, z: Tensor) -> Tensor:
        """``z``: [B, C, ...]."""
        return torch.ops.rheobase.qcfs(z, self.threshold, self.levels)

    def extra_repr(self) -> str:
        """Levels, for ``print(model)``."""
        return f"levels={self.levels}"


def staircase(z: Tensor, *, threshold: Tensor, levels: int) -> Tensor:
    """QCFS, θ/L · clip(⌊zL/θ + ½⌋, 0, L) (Bu et al. 2022, Eq. 15); θ is [] or [C]."""
    theta = threshold.reshape((-1,) + (1,) * (z.dim() - 2)) if threshold.dim() else threshold
    return theta / levels * torch.clamp(torch.floor(z * levels / theta + 0.5), 0, levels)


# An operation of its own, so that a traced network says "qcfs" and not multiply, add, floor, clamp.
@torch.library.custom_op("rheobase::qcfs", mutates_args=())
def _qcfs(z: Tensor, threshold: Tensor, levels: int) -> Tensor:
    return staircase(z, threshold=threshold, levels=levels)


@_qcfs.register_fake
def _(z: Tensor, threshold: Tensor, levels: int) -> Tensor:
    return torch.empty_like(z)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    z, threshold, _ = inputs
    ctx.save_for_backward(z, threshold, output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    z, threshold, a = ctx.saved_tensors
    theta = threshold.reshape((-1,) + (1,) * (z.dim() - 2)) if threshold.dim() else threshold
    above, inside = z >= theta, (z > 0) & (z < theta)
    wide = torch.where(above, gradient, torch.where(inside, gradient * (a - z) / theta, 0.0))
    by_channel = wide.movedim(1, 0).flatten(1).sum(1) if threshold.dim() else wide.sum()
    return torch.where(inside, gradient, 0.0), by_channel.reshape(threshold.shape), None


_qcfs.register_autograd(_backward, setup_context=_keep)
