"""Parallel conversion, FS-PC (Hao et al. 2025)."""

from __future__ import annotations

from typing import Literal

from rheobase.methods.neuron_part import ParallelNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.neurons.parallel import Order
from rheobase.passes import ErrorCalibration, Thresholds
from rheobase.passes.error_calibration import Post
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod

RECORDED = 1024
"""Number of calibration images that the thresholds are fitted to."""


@published
def ParallelConversion(
    timesteps: int = 8,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    errors: bool = True,
    order: Order = "last",
    post: Literal[Post, "best"] = "best",
) -> Recipe:
    """FS-PC: all spikes of a neuron computed at once from the time-mean of its current (Hao et al. 2025).

    For a ReLU network: thresholds from recorded activations, parallel neurons, and the layer-wise error calibration.
    For a network with QCFS activations, ``threshold="saturation"`` takes the trained θ; L may differ from T.

    Args:
        timesteps, threshold, granularity, percentile: see :func:`RateCoding`.
        errors: calibrate pre- and post-firing values (:class:`rheobase.passes.ErrorCalibration`); the network then runs
            for this T only.
        post: the rule for φ in that calibration: ``"published"`` is FS-PC's, ``"exact"`` leaves no mean error, and
            ``"best"`` keeps the best on held-out images. FS-PC as published, for a ReLU network:
            ``ParallelConversion(threshold="max", post="published")``.
        order: the spikes are the last or the first ones of the T steps.

    Example:
        >>> [part.kind for part in ParallelConversion(timesteps=4).calibration]
        ['thresholds', 'error_calibration']
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile, images=RECORDED)
    return Recipe(
        name="ParallelConversion",
        timesteps=timesteps,
        neuron=ParallelNeuron(timesteps=timesteps, order=order),
        calibration=(thresholds, ErrorCalibration(post=post)) if errors else (thresholds,),
    )
