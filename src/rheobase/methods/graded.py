"""Graded spikes that can be taken back, with weights fitted to them: a method of this library."""

from __future__ import annotations

from rheobase.methods.neuron_part import GradedNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import TemporalBias, Thresholds, WeightRegression
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def Graded(
    timesteps: int = 4,
    magnitude: int = 4,
    levels: int | None = None,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    ridge: float = 0.03,
    rounds: int = 2,
    iterations: int | None = None,
) -> Recipe:
    """Streaming conversion for few time-steps: spikes of −m..m, weights fitted to them, a bias for each step.

    Neurons fire as soon as they can and take back what was too much (:class:`rheobase.neurons.Graded`), so the network
    streams and still counts right. Thresholds are those of a quantiser with n levels; then the weights of each layer
    are fitted to the spikes that it receives (:class:`rheobase.passes.WeightRegression`); then, for T of 1 and 2, the
    mean output of every step is corrected (:class:`rheobase.passes.TemporalBias`). No labels, no training. Not from a
    paper; see docs/graded.md.

    Args:
        timesteps: T.
        magnitude: m, the largest number of spikes in a step, of either sign; a step carries log2(2m + 1) bits.
        levels: n, the number of spikes in T steps at the value where a neuron saturates; default: m · T.
        threshold: the method that sets θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.
        ridge, rounds: of the weights' regression.
        iterations: maximum number of corrections of the biases; 0: none, and the network runs for other T too. By
            default 2 for T of 1 and 2, and 0 for more, where they take two thirds of the time and lower the error on
            held-out images by little or nothing (docs/graded.md).

    Example:
        >>> [part.kind for part in Graded(timesteps=2, magnitude=1).calibration]
        ['thresholds', 'weight_regression', 'temporal_bias']
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile, levels=levels)
    biases = TemporalBias(iterations=iterations or 2, longest=2 if iterations is None else None)
    return Recipe(
        name="Graded",
        timesteps=timesteps,
        neuron=GradedNeuron(magnitude=magnitude),
        calibration=(thresholds, WeightRegression(ridge=ridge, rounds=rounds), *([] if iterations == 0 else [biases])),
    )
