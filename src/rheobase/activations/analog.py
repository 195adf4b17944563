"""The activation of a site, as the analog network computes it."""

from __future__ import annotations

from torch import Tensor

from rheobase.activations.activation import Rounding
from rheobase.activations.staircase import staircase


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
