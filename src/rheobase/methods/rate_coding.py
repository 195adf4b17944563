"""Rate coding: the classical conversion."""

from __future__ import annotations

from rheobase.methods.neuron_part import IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import ScaleThresholds, Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def RateCoding(
    timesteps: int = 32,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
    scale: bool = False,
) -> Recipe:
    """Integrate-and-fire neurons with soft reset, thresholds from data and an initial potential.

    With ``initial_potential=0``, ``threshold="percentile"`` is the method of Rueckauer et al. 2017, and
    ``threshold="max"`` that of Diehl et al. 2015. ``initial_potential=0.5`` is OPI (Bu et al. 2022); the default
    combines it with the least-squares thresholds of Li et al. 2021.

    Args:
        timesteps: T.
        threshold: the method that sets θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.
        initial_potential: V0/θ.
        scale: then scale the thresholds of each site to minimise the logit error
            (:class:`rheobase.passes.ScaleThresholds`), at a cost of a few simulations per site.

    Example:
        >>> RateCoding(timesteps=8).calibration[0].method
        'mse'
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile)
    return Recipe(
        name="RateCoding",
        timesteps=timesteps,
        neuron=IntegrateFireNeuron(initial_potential=initial_potential),
        calibration=(thresholds, ScaleThresholds()) if scale else (thresholds,),
    )
