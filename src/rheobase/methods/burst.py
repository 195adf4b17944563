"""Burst spikes."""

from __future__ import annotations

from rheobase.methods.neuron_part import BurstNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def Burst(
    timesteps: int = 8,
    magnitude: int = 2,
    levels: int | None = None,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
) -> Recipe:
    """Up to m spikes in a step, none taken back (Li & Zeng 2022; group neurons, Lv et al. 2024).

    Args:
        timesteps: T.
        magnitude: m, the largest number of spikes in a step.
        levels: n, the number of spikes in T steps at the value where a neuron saturates; default: m · T. With fewer, a
            neuron that is late can catch up, at a coarser resolution.
        threshold: the method that sets θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.
        initial_potential: V0/θ.

    Example:
        >>> Burst(timesteps=4, magnitude=3).neuron.magnitude
        3
    """
    return Recipe(
        name="Burst",
        timesteps=timesteps,
        neuron=BurstNeuron(magnitude=magnitude, initial_potential=initial_potential),
        calibration=(Thresholds(method=threshold, granularity=granularity, percentile=percentile, levels=levels),),
    )
