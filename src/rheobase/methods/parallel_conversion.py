"""Parallel conversion, FS-PC (Hao et al. 2025)."""

from __future__ import annotations

from rheobase.methods.neuron_part import ParallelNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.neurons.parallel import Order
from rheobase.passes import ErrorCalibration, Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod

RECORDED = 1024
"""How many calibration images the thresholds are taken from."""


@published
def ParallelConversion(
    timesteps: int = 8,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    errors: bool = True,
    order: Order = "last",
) -> Recipe:
    """FS-PC: all spikes of a neuron at once, from the mean of its current (Hao et al. 2025).

    A ReLU network as it is: thresholds from recorded activations, parallel neurons in place of the activations, and the
    layer-wise error calibration. With ``threshold="saturation"``, one with QCFS activations, with the θ it was trained
    with (their L need not be T).

    Args:
        timesteps: T.
        threshold: how θ is chosen; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ a channel, or one a layer.
        percentile: for ``threshold="percentile"``.
        errors: calibrate pre- and post-firing values (:class:`rheobase.passes.ErrorCalibration`); the result then runs
            for this T alone.
        order: spikes at the end of the window, or at its beginning.

    Example:
        >>> [part.kind for part in ParallelConversion(timesteps=4).calibration]
        ['thresholds', 'error_calibration']
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile, images=RECORDED)
    return Recipe(
        name="ParallelConversion",
        timesteps=timesteps,
        neuron=ParallelNeuron(timesteps=timesteps, order=order),
        calibration=(thresholds, ErrorCalibration()) if errors else (thresholds,),
    )
