"""Quantised ReLU with equal steps up to a trained threshold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase.activations.activation import (
    INITIAL_POTENTIAL,
    Activation,
    Bounds,
    QuantisedActivation,
    Rounding,
    built_in,
    check_levels,
)
from rheobase.core.errors import ModelError
from rheobase.signals.signal import along_channels


class Staircase(QuantisedActivation):
    r"""Quantised ReLU with L equal steps up to a trained θ.

    .. math:: a = \frac{\theta}{L} \, \mathrm{clip}(Q(zL / \theta), 0, L)

    Q rounds down, up, or to the nearest (halves up): the three activations of QVM (section 4.1). The gradient passes
    straight through Q: for 0 < z <= θ, ∂a/∂z = 1 and ∂a/∂θ = (a − z)/θ; for z > θ, 0 and 1; for z <= 0, 0 and 0 (Bu et
    al. 2022, Eqs. 16-17).

    Args:
        levels: L >= 1; the activation has the L + 1 values 0, θ/L, ..., θ.
        threshold: initial θ > 0; a number, or a tensor [C] with one per channel.
        rounding: Q: ``"floor"``, ``"ceil"`` or ``"round"``.

    Raises:
        ModelError: if L < 1, θ is not positive, or the rounding is unknown.

    Example:
        >>> import torch
        >>> Staircase(4, 1.0, "floor")(torch.tensor([[-1.0, 0.1, 0.2, 0.6, 3.0]])).detach()
        tensor([[0.0000, 0.0000, 0.0000, 0.5000, 1.0000]])
    """

    def __init__(self, levels: int, threshold: float | Tensor = 1.0, rounding: Rounding = "round") -> None:
        super().__init__()
        if rounding not in INITIAL_POTENTIAL:
            raise ModelError(f"is {rounding!r}", where="rounding", remedy=f"use one of {', '.join(INITIAL_POTENTIAL)}")
        if not isinstance(threshold, Tensor | float | int):
            raise ModelError(f"is {threshold!r}", where="threshold", remedy="use a positive number or a tensor")
        start = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
        if not bool((start > 0).all()):
            raise ModelError("is not positive", where="threshold", remedy="use a percentile of the activation")
        self.levels = check_levels(levels)
        self.rounding: Rounding = rounding
        self.threshold = nn.Parameter(start)

    @property
    def saturation(self) -> Tensor:
        """θ."""
        return self.threshold

    def forward(self, z: Tensor) -> Tensor:
        """``z``: [B, C, ...]."""
        if torch.compiler.is_exporting():
            # one custom operation, so that the traced network has "staircase" and not multiply, add, floor, clamp
            return torch.ops.rheobase.staircase(z, self.threshold, self.levels, self.rounding)
        return StraightThrough.apply(z, self.threshold, None, self.levels, self.rounding)

    def extra_repr(self) -> str:
        """Levels and rounding, for ``print(model)``."""
        return f"levels={self.levels}, rounding={self.rounding}"


class QCFS(Staircase):
    r"""Quantisation clip-floor-shift activation (Bu et al. 2022, Eq. 15): the staircase with rounding to nearest.

    .. math:: a = \frac{\theta}{L} \, \mathrm{clip}(\lfloor zL / \theta + 1/2 \rfloor, 0, L)

    At T = L, the time-mean of an integrate-and-fire neuron with V0 = θ/2 under a constant current is a.

    Args:
        levels: L >= 1.
        threshold: initial θ > 0; a number, or a tensor [C] with one per channel.

    Example:
        >>> import torch
        >>> QCFS(levels=4, threshold=1.0)(torch.tensor([[-1.0, 0.1, 0.2, 0.6, 3.0]])).detach()
        tensor([[0.0000, 0.0000, 0.2500, 0.5000, 1.0000]])
    """

    def __init__(self, levels: int, threshold: float | Tensor = 1.0) -> None:
        super().__init__(levels, threshold, "round")


def clipped_count(
    z: Tensor, threshold: Tensor, levels: int, potential: float | Tensor, strict: bool, *, overwrite: bool = False
) -> Tensor:
    """The level of z: clip(⌊zL/θ + V0⌋, 0, L), a whole number as float.

    An activation and the closed forms of its neurons share this function, so that they give the same bits.

    Args:
        z: [B, C, ...].
        threshold: θ, [] or [C]; a channel with θ = ∞ gives 0.
        levels: L.
        potential: V0, in units of the step θ/L; a number, [] or [C].
        strict: the edge of a step belongs to the lower level: clip(⌈zL/θ + V0⌉ − 1, 0, L).
        overwrite: write over ``z``.
    """
    scale = along_channels(levels / threshold, z.dim())
    steps = z.mul_(scale) if overwrite else z * scale
    offset = potential - 1 if strict else potential
    if isinstance(offset, Tensor):
        steps += along_channels(offset, z.dim())
    elif offset:
        steps += offset
    return (steps.ceil_() if strict else steps.floor_()).clamp_(0, levels)


def staircase(
    z: Tensor, *, threshold: Tensor, levels: int, rounding: Rounding = "round", overwrite: bool = False
) -> Tensor:
    """θ/L · clip(Q(zL/θ), 0, L), see :class:`Staircase`; θ is [] or [C]."""
    count = clipped_count(z, threshold, levels, INITIAL_POTENTIAL[rounding], rounding == "ceil", overwrite=overwrite)
    return count.mul_(along_channels(threshold / levels, z.dim()))


@built_in
class StaircaseFunction(Activation):
    """The function of :class:`Staircase` at a site: levels and rounding are attributes of the node, θ is a tensor."""

    kind = "staircase"

    def apply(
        self,
        x: Tensor,
        *,
        overwrite: bool = False,
        threshold: Tensor,
        levels: int,
        rounding: Rounding = "round",
        **arguments: Any,
    ) -> Tensor:
        """``x``: [B, C, ...]."""
        return staircase(x, threshold=threshold, levels=levels, rounding=rounding, overwrite=overwrite)

    def bounds(self, *, levels: int, rounding: Rounding = "round", **attributes: Any) -> Bounds:
        """From 0 to θ, quantised."""
        return Bounds(levels=levels, rounding=rounding)


class StraightThrough(torch.autograd.Function):
    """The staircase, with gradients with respect to z, θ and, where it is trained, the number of steps t [] (or None).

    For z and θ those of :class:`Staircase`; ∂a/∂t = −(a − z)/t for 0 < z <= θ, else 0 (QAC, Eq. 7).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, t: Tensor | None, levels: int, rounding: Rounding) -> Tensor:
        """The staircase with the whole number of ``levels``; ``t`` is the number before rounding."""
        a = staircase(z, threshold=threshold, levels=levels, rounding=rounding)
        ctx.save_for_backward(z, threshold, t, a)
        return a

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        """The gradients."""
        z, threshold, t, a = ctx.saved_tensors
        # with the backward pass of ReLU, in half the time of masks; it takes a tenth of a training step
        above = torch.ops.aten.threshold_backward(gradients[0], z - along_channels(threshold, z.dim()), 0)
        inside = torch.ops.aten.threshold_backward(gradients[0], z, 0).sub_(above)
        others = [d for d in range(z.dim()) if d != 1 or not threshold.dim()]
        error = (a - z).mul_(inside).sum(others)
        by_theta = (error / threshold + above.sum(others)).reshape(threshold.shape)
        return inside, by_theta, None if t is None else (-error.sum() / t).to(t.dtype).reshape(t.shape), None, None


@torch.library.custom_op("rheobase::staircase", mutates_args=())
def _staircase(z: Tensor, threshold: Tensor, levels: int, rounding: str) -> Tensor:
    return staircase(z, threshold=threshold, levels=levels, rounding=rounding)  # type: ignore[arg-type]


@_staircase.register_fake
def _(z: Tensor, threshold: Tensor, levels: int, rounding: str) -> Tensor:
    return torch.empty_like(z)
