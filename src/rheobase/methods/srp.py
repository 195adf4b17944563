"""Silencing by the residual membrane potential (SRP)."""

from __future__ import annotations

from rheobase.methods.neuron_part import Levels
from rheobase.methods.rate_coding import RateCoding
from rheobase.methods.recipe import Recipe, published
from rheobase.network import Silence
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def SRP(
    timesteps: int = 8,
    rehearsal: Levels = 4,
    margin: float = 1e-3,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
) -> Recipe:
    """Neurons whose residual potential says that they should not fire are silenced by a rehearsal (Hao et al. 2023).

    Published for networks with QCFS activations: ``SRP(threshold="saturation", granularity="layer")``.

    Args:
        timesteps, threshold, granularity, percentile, initial_potential: as for :func:`RateCoding`.
        rehearsal: τ, the number of steps of the rehearsal, at every site.
        margin: ε; see :class:`rheobase.network.Silence`.

    Example:
        >>> SRP(timesteps=4).protocol.phases(4)
        (4, 4)
    """
    base = RateCoding(timesteps, threshold, granularity, percentile, initial_potential)
    return base.replace(name="SRP", protocol=Silence(steps=rehearsal, margin=margin))
