"""Adaptive-firing neurons (AdaFire)."""

from __future__ import annotations

from rheobase.methods.neuron_part import BurstNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import FiringSearch, Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def AdaFire(
    timesteps: int = 8,
    magnitudes: tuple[int, ...] = (1, 2, 3, 4),
    spikes: float = 1.0,
    tolerance: float = 0.1,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
) -> Recipe:
    """Bursts of up to φ spikes a step, φ and a factor of the threshold searched for every layer (Wang et al. 2025).

    The third part, fewer steps for easy images, is :func:`rheobase.measure.early_exit`. Published for QCFS networks:
    ``AdaFire(threshold="saturation", granularity="layer")``.

    Args:
        timesteps, threshold, granularity, percentile, initial_potential: as for :func:`RateCoding`; θ is that of φ T
            levels.
        magnitudes: candidates of φ.
        spikes, tolerance: see :class:`rheobase.passes.FiringSearch`.

    Example:
        >>> [part.kind for part in AdaFire(timesteps=4).calibration]
        ['thresholds', 'firing_search']
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile, levels="timesteps")
    search = FiringSearch(magnitudes=magnitudes, spikes=spikes, tolerance=tolerance)
    neuron = BurstNeuron(magnitude=max(magnitudes, default=1), initial_potential=initial_potential)
    return Recipe(name="AdaFire", timesteps=timesteps, neuron=neuron, calibration=(thresholds, search))
