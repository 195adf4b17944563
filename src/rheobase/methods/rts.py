"""ReLU with threshold and shift (RTS)."""

from __future__ import annotations

from rheobase.methods.neuron_part import IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import ShiftCurrent, Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def RTS(
    timesteps: int = 32,
    threshold: ThresholdMethod = "percentile",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    shift: float = 0.5,
) -> Recipe:
    """ReLU with threshold and shift: a current of shift · θ/T at every step (Deng & Gu 2021).

    Use ``threshold="saturation"`` for a network trained with the thresholded ReLU, as published, and any other choice
    for a ReLU network.

    Args:
        timesteps, threshold, granularity, percentile: see :func:`RateCoding`.
        shift: total shift over the T steps, in units of θ.

    Example:
        >>> RTS(timesteps=8).calibration[1].shift
        0.5
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile, shift=shift)
    neuron = IntegrateFireNeuron(initial_potential=0)
    return Recipe(name="RTS", timesteps=timesteps, neuron=neuron, calibration=(thresholds, ShiftCurrent(shift=shift)))
