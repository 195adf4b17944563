"""OPI: the optimal initial potential (Bu et al. 2022)."""

from __future__ import annotations

from rheobase.methods.neuron_part import IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import Thresholds
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
        timesteps: T.
        threshold: the method that sets θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.

    Example:
        >>> OPI(timesteps=8).neuron.initial_potential
        0.5
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile)
    return Recipe(
        name="OPI", timesteps=timesteps, neuron=IntegrateFireNeuron(initial_potential=0.5), calibration=(thresholds,)
    )
