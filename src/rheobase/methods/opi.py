"""Optimal initial potential (OPI)."""

from __future__ import annotations

from rheobase.methods.rate_coding import RateCoding
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def OPI(
    timesteps: int = 32,
    threshold: ThresholdMethod = "percentile",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
) -> Recipe:
    """Optimal initial potential: V0 = θ/2 at every neuron (Bu et al. 2022).

    Args:
        timesteps, threshold, granularity, percentile: see :func:`RateCoding`.

    Example:
        >>> OPI(timesteps=8).neuron.initial_potential
        0.5
    """
    return RateCoding(timesteps, threshold, granularity, percentile).replace(name="OPI")
