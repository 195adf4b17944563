"""DA parallel calibration."""

from __future__ import annotations

from typing import Any, Literal

from rheobase.methods.parallel_conversion import ParallelConversion
from rheobase.methods.recipe import Recipe, published
from rheobase.neurons.parallel import Order
from rheobase.passes import SpatialRecalibration, TemporalCorrection
from rheobase.passes.error_calibration import Post
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
    post: Literal[Post, "best"] = "best",
) -> Recipe:
    """Parallel conversion with distribution-aware calibration: batch normalisation, then output biases, are trained.

    :func:`ParallelConversion` followed by stage 1, :class:`rheobase.passes.SpatialRecalibration`, and stage 2,
    :class:`rheobase.passes.TemporalCorrection`. ``spatial`` and ``temporal`` switch the stages on; without both it is
    FS-PC (the paper's Table 3). The stages train on the calibration images, so give many:
    ``rb.convert(net, rb.DAParallel(timesteps=4), calibration=images, num_calibration_images=50_000)``.

    Args:
        timesteps, threshold, granularity, percentile, errors, order, post: see :func:`ParallelConversion`.
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
    base = ParallelConversion(timesteps, threshold, granularity, percentile, errors, order, post)
    shared: Any = {"target": target, "temperature": temperature, "batch_size": batch_size, "seed": seed}
    stage_1 = SpatialRecalibration(epochs=epochs, learning_rate=learning_rate, neurons=neurons, post=post, **shared)
    stage_2 = TemporalCorrection(epochs=temporal_epochs, learning_rate=temporal_learning_rate, **shared)
    stages = (stage for stage, wanted in ((stage_1, spatial), (stage_2, temporal)) if wanted)
    return base.replace(name="DAParallel", calibration=(*base.calibration, *stages))
