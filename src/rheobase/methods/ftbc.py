"""FTBC: forward temporal bias correction (Wu et al. 2024)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat

from rheobase.methods.rate_coding import RateCoding
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import ScaleThresholds, ShiftCurrent, TemporalBias, Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def FTBC(
    timesteps: int = 8,
    alpha: float = 0.5,
    ramp: float | None = None,
    updates: int = 20,
    iterations: int = 2,
    batch_size: int = 128,
    batches: int = 2,
    pooled: bool = True,
    patience: int | None = 3,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
    scale: bool = False,
    shift: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0,
) -> Recipe:
    """Fit a bias for every channel and step to the mean activation of the ANN (Wu et al. 2024).

    For a ReLU network, or, with ``threshold="saturation"``, for one trained with a thresholded ReLU (the paper's
    "+RTS"). The converted network runs only for the T that it was calibrated for.

    Args:
        timesteps, threshold, granularity, percentile, initial_potential: as for :func:`RateCoding`, before correction.
        alpha, ramp, updates, iterations, batch_size, batches, pooled, patience: see
            :class:`rheobase.passes.TemporalBias`. ``ramp=0`` is the constant target of the paper, and its scheme is
            ``FTBC(timesteps=4, ramp=0, alpha=0.2, updates=1, iterations=10, pooled=False, patience=None)`` (Table 6:
            ResNet-20, CIFAR-10). By default the ramp is 0 or 1, whichever is better on held-out images.
        scale: as for :func:`RateCoding`. Differs from the paper.
        shift: total current added over the T steps, in units of θ, before correction. The papers' starts are
            ``initial_potential=0, shift=0.5`` on the network of SNN Calibration and on that of RTS ("+RTS"), and
            ``initial_potential=0.5`` on that of QCFS.

    Example:
        >>> FTBC(timesteps=8).calibration[1].alpha
        0.5
    """
    base = RateCoding(timesteps, threshold, granularity, percentile, initial_potential)
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile, shift=shift)
    shifted = (ShiftCurrent(shift=shift),) if shift else ()
    scaled = (ScaleThresholds(images=96, sweeps=1),) if scale else ()
    correction = TemporalBias(
        alpha=alpha,
        ramp=ramp,
        updates=updates,
        iterations=iterations,
        batch_size=batch_size,
        batches=batches,
        pooled=pooled,
        patience=patience,
    )
    return base.replace(name="FTBC", calibration=(thresholds, *shifted, *scaled, correction))
