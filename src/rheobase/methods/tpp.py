"""Temporally probabilistic spikes (TPP)."""

from __future__ import annotations

from rheobase.methods.neuron_part import ProbabilisticNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def TPP(
    timesteps: int = 8,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    seed: int = 0,
) -> Recipe:
    """Every site collects its whole input, then fires at random in proportion to it (Bojkovic et al. 2025).

    Published for trained thresholds: ``TPP(threshold="saturation", granularity="layer")``.

    Args:
        timesteps, threshold, granularity, percentile: as for :func:`RateCoding`.
        seed: of the random spikes; see :class:`rheobase.neurons.Probabilistic`.

    Example:
        >>> TPP(timesteps=4, seed=7).neuron.seed
        7
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile)
    neuron = ProbabilisticNeuron(timesteps=timesteps, seed=seed)
    return Recipe(name="TPP", timesteps=timesteps, neuron=neuron, calibration=(thresholds,))
