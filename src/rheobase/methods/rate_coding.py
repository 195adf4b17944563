"""The classical conversion."""

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
    """Integrate-and-fire neurons with soft reset, thresholds from data, an initial potential, nothing else.

    Rueckauer et al. 2017 with ``threshold="percentile"`` (or ``"max"``, Diehl et al. 2015) and
    ``initial_potential=0``; OPI (Bu et al. 2022) with ``initial_potential=0.5``; the default adds the least-squares
    thresholds of Li et al. 2021.

    Args:
        timesteps: T.
        threshold: how θ is chosen; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ a channel, or one a layer.
        percentile: for ``threshold="percentile"``.
        initial_potential: V0/θ.
        scale: then scale each site's thresholds by the logit error (:class:`rheobase.passes.ScaleThresholds`);
            costs a few simulations for each site.

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
