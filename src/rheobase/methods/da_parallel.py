"""Parallel conversion, and its distribution-aware calibration."""

from __future__ import annotations

from rheobase.methods.parallel_conversion import ParallelConversion
from rheobase.methods.recipe import Recipe, published
from rheobase.neurons.parallel import Order
from rheobase.passes import SpatialRecalibration, TemporalCorrection
from rheobase.passes.fine_tuning import Target
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


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
    :class:`rheobase.passes.TemporalCorrection`; ``spatial`` and ``temporal`` switch them on, and neither is FS-PC (the
    paper's Table 3). The stages learn from the calibration images, so give many:
    ``rb.convert(net, rb.DAParallel(timesteps=4), calibration=images, limit=50_000)``.

    Args:
        timesteps: T.
        spatial: stage 1. On a network without batch normalisation it says that it had nothing to do.
        temporal: stage 2.
        target: what the stages learn from: the analog network's answers (``ann``), the ``labels``, as in the paper, or
            ``both``. See :class:`rheobase.passes.SpatialRecalibration`.
        epochs: of stage 1.
        learning_rate: of stage 1.
        temporal_epochs: of stage 2.
        temporal_learning_rate: of stage 2.
        batch_size: of both stages.
        threshold: how θ is chosen; see :class:`rheobase.passes.Thresholds`. ``"saturation"`` starts from a QCFS
            network with the θ it was trained with.
        granularity: one θ a channel, or one a layer.
        percentile: for ``threshold="percentile"``.
        errors: calibrate pre- and post-firing values first.
        neurons: stage 1 trains θ and φ of every channel beside batch normalisation (ours).
        order: spikes at the end of the window, or at its beginning.
        seed: of the order of the images.
        temperature: τ of the distillation in both stages.

    Example:
        >>> [part.kind for part in DAParallel(timesteps=4).calibration]
        ['thresholds', 'error_calibration', 'spatial_recalibration', 'temporal_correction']
    """
    base = ParallelConversion(timesteps, threshold, granularity, percentile, errors, order)
    stage_1 = SpatialRecalibration(
        target=target,
        temperature=temperature,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        neurons=neurons,
    )
    stage_2 = TemporalCorrection(
        target=target,
        temperature=temperature,
        epochs=temporal_epochs,
        learning_rate=temporal_learning_rate,
        batch_size=batch_size,
        seed=seed,
    )
    stages = (*((stage_1,) if spatial else ()), *((stage_2,) if temporal else ()))
    return base.replace(name="DAParallel", calibration=(*base.calibration, *stages))
