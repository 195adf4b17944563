"""Parallel conversion: FS-PC (Hao et al. 2025), and distribution-aware (DA) calibration after it."""

from __future__ import annotations

from typing import Any

from rheobase.methods.neuron_part import ParallelNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.neurons.parallel import Order
from rheobase.passes import ErrorCalibration, SpatialRecalibration, TemporalCorrection, Thresholds
from rheobase.passes.fine_tuning import Target
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
) -> Recipe:
    """FS-PC: all spikes of a neuron computed at once from the time-mean of its current (Hao et al. 2025).

    For a ReLU network: thresholds from recorded activations, parallel neurons, and the layer-wise error calibration.
    For a network with QCFS activations, ``threshold="saturation"`` takes the trained θ; L may differ from T.

    Args:
        timesteps, threshold, granularity, percentile: see :func:`RateCoding`.
        errors: calibrate pre- and post-firing values (:class:`rheobase.passes.ErrorCalibration`); the network then runs
            for this T only.
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
        calibration=(thresholds, ErrorCalibration()) if errors else (thresholds,),
    )


@published
def DAParallel(
    timesteps: int = 8,
    spatial: bool = True,
    temporal: bool = True,
    target: Target = "ann",
    epochs: int = 1,
    learning_rate: float = 1e-2,
    temporal_epochs: int = 1,
    temporal_learning_rate: float = 2e-3,
    batch_size: int = 64,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    errors: bool = True,
    neurons: bool = True,
    order: Order = "last",
    seed: int = 0,
    temperature: float = 2.0,
) -> Recipe:
    """Parallel conversion with distribution-aware calibration: batch normalisation, then output biases, are trained.

    :func:`ParallelConversion` followed by stage 1, :class:`rheobase.passes.SpatialRecalibration`, and stage 2,
    :class:`rheobase.passes.TemporalCorrection`. ``spatial`` and ``temporal`` switch the stages on; without both it is
    FS-PC (the paper's Table 3). The stages train on the calibration images, so give many:
    ``rb.convert(net, rb.DAParallel(timesteps=4), calibration=images, num_calibration_images=50_000)``.

    Args:
        timesteps, threshold, granularity, percentile, errors, order: see :func:`ParallelConversion`.
            ``threshold="saturation"`` takes the trained θ of a QCFS network.
        spatial: run stage 1; on a network without batch normalisation, it changes nothing and adds a note.
        temporal: run stage 2.
        target, temperature, batch_size, seed: of both stages; see :class:`rheobase.passes.SpatialRecalibration`. The
            paper trains on the ``labels``.
        epochs, learning_rate: of stage 1.
        temporal_epochs, temporal_learning_rate: of stage 2.
        neurons: stage 1 also trains θ and φ of every channel. Differs from the paper.

    Example:
        >>> [part.kind for part in DAParallel(timesteps=4).calibration]
        ['thresholds', 'error_calibration', 'spatial_recalibration', 'temporal_correction']
    """
    base = ParallelConversion(timesteps, threshold, granularity, percentile, errors, order)
    shared: Any = {"target": target, "temperature": temperature, "batch_size": batch_size, "seed": seed}
    stage_1 = SpatialRecalibration(epochs=epochs, learning_rate=learning_rate, neurons=neurons, **shared)
    stage_2 = TemporalCorrection(epochs=temporal_epochs, learning_rate=temporal_learning_rate, **shared)
    stages = (stage for stage, wanted in ((stage_1, spatial), (stage_2, temporal)) if wanted)
    return base.replace(name="DAParallel", calibration=(*base.calibration, *stages))
