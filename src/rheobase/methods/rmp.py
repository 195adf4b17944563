"""Residual membrane potential neurons (RMP): soft reset with maximum thresholds."""

from __future__ import annotations

from rheobase.methods.rate_coding import RateCoding
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def RMP(
    timesteps: int = 64,
    threshold: ThresholdMethod = "max",
    granularity: Granularity = "layer",
    percentile: float = 99.9,
) -> Recipe:
    """Soft reset, V0 = 0, and the maximum of each layer as its threshold (Han et al. 2020).

    Args:
        timesteps, threshold, granularity, percentile: see :func:`RateCoding`.

    Example:
        >>> RMP(timesteps=8).neuron.initial_potential
        0.0
    """
    return RateCoding(timesteps, threshold, granularity, percentile, initial_potential=0).replace(name="RMP")
