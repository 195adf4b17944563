"""Calibrated offset spikes (COS)."""

from __future__ import annotations

from rheobase.methods.neuron_part import Levels
from rheobase.methods.rate_coding import RateCoding
from rheobase.methods.recipe import Recipe, published
from rheobase.network import Shift
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def COS(
    timesteps: int = 8,
    rounds: Levels = 4,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
) -> Recipe:
    """The initial potential of every neuron is shifted by the spikes that were too many or too few (Hao et al. 2023).

    Published for networks with QCFS activations: ``COS(threshold="saturation", granularity="layer")``.

    Args:
        timesteps, threshold, granularity, percentile, initial_potential: as for :func:`RateCoding`.
        rounds: ρ, the number of rehearsals of T steps at every site; see :class:`rheobase.network.Shift`.

    Example:
        >>> COS(timesteps=4, rounds=2).protocol.phases(4)
        (4, 4, 4)
    """
    base = RateCoding(timesteps, threshold, granularity, percentile, initial_potential)
    return base.replace(name="COS", protocol=Shift(rounds=rounds))
