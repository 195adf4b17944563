"""PASCAL: exact conversion by spike counting (Ramesh & Srinivasan 2025)."""

from __future__ import annotations

from rheobase.methods.activation_part import InitialThreshold, StaircaseActivation
from rheobase.methods.neuron_part import BySite, PascNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity


@published
def Pascal(
    levels: BySite | None = None, granularity: Granularity = "layer", initial_threshold: InitialThreshold = "mse"
) -> Recipe:
    """Spike counting with the same output as the QCFS network (Ramesh & Srinivasan 2025, Theorem 3.6).

    Quantise and train the network first: ``rb.quantise(net, rb.Pascal(levels=4), ...)``, ``rb.train``. Every site runs
    for T = L steps.

    Args:
        levels: L of every site, or by site name (section 3.4, adaptive levels); None: as trained.
        granularity: one θ per layer or per channel.
        initial_threshold: θ before training: ``"mse"``, ``"percentile"`` or ``"max"`` of the calibration images, or a
            number, such as 1 in the authors' code.

    Example:
        >>> Pascal(levels=4).activation.levels
        4
    """
    return Recipe(
        name="Pascal",
        timesteps=None,
        activation=StaircaseActivation(levels=levels, granularity=granularity, threshold=initial_threshold),
        neuron=PascNeuron(),
    )
