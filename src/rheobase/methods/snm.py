"""Signed neurons with memory (SNM)."""

from __future__ import annotations

from rheobase.methods.neuron_part import GradedNeuron, SignedNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.neurons.firing import Firing
from rheobase.passes import Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def SNM(
    timesteps: int = 8,
    firing: Firing = "truncate",
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
) -> Recipe:
    """Ternary spikes: a neuron takes back a spike that it emitted too early (Wang et al. 2022).

    Args:
        timesteps: T.
        firing: when a spike is taken back: at a potential of −θ, as published (``truncate``), or as soon as the
            potential is negative (``floor``), which makes the net count right at every step.
        threshold: the method that sets θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.
        initial_potential: V0/θ; ½ rounds to nearest.

    Example:
        >>> SNM(timesteps=4).neuron.kind, SNM(timesteps=4, firing="floor").neuron.kind
        ('signed', 'graded')
    """
    part = SignedNeuron if firing == "truncate" else GradedNeuron
    return Recipe(
        name="SNM",
        timesteps=timesteps,
        neuron=part(magnitude=1, initial_potential=initial_potential),
        calibration=(Thresholds(method=threshold, granularity=granularity, percentile=percentile),),
    )
