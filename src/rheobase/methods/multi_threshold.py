"""Spikes of signed powers of two."""

from __future__ import annotations

from rheobase.methods.neuron_part import MultiThresholdNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def MultiThreshold(
    timesteps: int = 4,
    magnitude: int = 8,
    levels: int | None = None,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
) -> Recipe:
    """A spike is worth ±1, ±2, ±4, ... or ±m units; the nearest one to the membrane potential fires.

    Args:
        timesteps: T.
        magnitude: m, a power of two.
        levels: n, the number of units in T steps at the value where a neuron saturates; default: m · T.
        threshold: the method that sets the unit θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.

    Example:
        >>> MultiThreshold(timesteps=2).neuron.magnitude
        8
    """
    return Recipe(
        name="MultiThreshold",
        timesteps=timesteps,
        neuron=MultiThresholdNeuron(magnitude=magnitude),
        calibration=(Thresholds(method=threshold, granularity=granularity, percentile=percentile, levels=levels),),
    )
