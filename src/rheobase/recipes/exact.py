"""Exact conversion of networks with quantised activations: PASCAL and QVM."""

from __future__ import annotations

from rheobase.activations import Rounding
from rheobase.calibrate.statistics import Granularity
from rheobase.recipes.parts import ConstantCurrentNeuron, Levels, PascNeuron, StaircaseActivation
from rheobase.recipes.recipe import Recipe, published


@published
def Pascal(
    levels: Levels | dict[str, Levels] | None = None,
    granularity: Granularity = "layer",
) -> Recipe:
    """Spike counting that gives what the QCFS network gives (Ramesh & Srinivasan 2025, Theorem 3.6).

    The network is quantised and trained first: ``rb.quantise(net, rb.Pascal(levels=4), ...)``, ``rb.train``. Every site
    runs for as many steps as it has levels.

    Args:
        levels: L of every site, or by the site's name (section 3.4, adaptive levels); None: as trained.
        granularity: one θ a layer, or one a channel.

    Example:
        >>> Pascal(levels=4).activation.levels
        4
    """
    return Recipe(
        name="Pascal",
        timesteps=None,
        activation=StaircaseActivation(levels=levels, granularity=granularity),
        neuron=PascNeuron(),
    )


@published
def QVM(
    levels: Levels | dict[str, Levels] | None = None,
    timesteps: Levels | None = None,
    rounding: Rounding = "round",
    initial_potential: float | None = None,
    granularity: Granularity = "layer",
) -> Recipe:
    """Quantisation-voltage matching: neurons under a constant current with the V0 of the activation's rounding.

    QVM, Theorems 1-3: at T = L the spiking network gives what the quantised network gives, without unevenness error.
    The network is quantised and trained first: ``rb.quantise(net, rb.QVM(levels=4), ...)``, ``rb.train``.

    Args:
        levels: L of every site, or by the site's name; None: as trained.
        timesteps: T of every site; default its levels. The converted network runs for any T; with levels by site, for
            those that give each a whole number of steps.
        rounding: Q of the activation.
        initial_potential: V0/θ; default 0, ½, 1 for floor, round, ceil.
        granularity: one θ a layer, or one a channel.

    Example:
        >>> QVM(levels=4, rounding="ceil").activation.rounding
        'ceil'
    """
    return Recipe(
        name="QVM",
        timesteps=timesteps,
        activation=StaircaseActivation(levels=levels, rounding=rounding, granularity=granularity),
        neuron=ConstantCurrentNeuron(initial_potential=initial_potential, timesteps=timesteps),
    )
