"""Temporal-switch coding (TSC)."""

from __future__ import annotations

from rheobase.methods.neuron_part import TemporalSwitchNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.methods.rmp import RMP
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def TSC(
    timesteps: int = 64,
    threshold: ThresholdMethod = "max",
    granularity: Granularity = "layer",
    percentile: float = 99.9,
) -> Recipe:
    """:func:`RMP` on an image that is coded in spikes: a pixel is the time between two of them (Han & Roy 2020).

    The first layer, too, then has additions only (:class:`rheobase.neurons.TemporalSwitch`).

    Args:
        timesteps, threshold, granularity, percentile: see :func:`RateCoding`.

    Example:
        >>> TSC(timesteps=8).coding.kind
        'temporal_switch'
    """
    recipe = RMP(timesteps, threshold, granularity, percentile)
    return recipe.replace(name="TSC", coding=TemporalSwitchNeuron(timesteps=timesteps))
