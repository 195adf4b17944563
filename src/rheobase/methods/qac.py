"""Quantisation-aware conversion with a time-step for every layer."""

from __future__ import annotations

from rheobase.activations.learned_staircase import Parametrisation
from rheobase.methods.learned_activation import LearnedActivation, MeanSteps
from rheobase.methods.parts import ConstantCurrentNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity


@published
def QAC(
    mean_timesteps: MeanSteps | None = None,
    parametrisation: Parametrisation = "t_alpha",
    granularity: Granularity = "layer",
    most: int = 32,
    rate: float = 1.0,
    matched: bool = True,
    settle: float = 0.6,
) -> Recipe:
    """The network learns how many steps each site needs; neurons take the mean of what arrives (QAC, section 4).

    The network is quantised and trained first: ``rb.quantise(net, rb.QAC(mean_timesteps=3), ...)``, ``rb.train``.

    Args:
        mean_timesteps: mean T over the sites, from 1, which training holds to; ``"free"``: none, as in the paper; None:
            as trained.
        parametrisation: what a site trains: ``"n_d"``, ``"n_alpha"``, ``"d_alpha"`` or ``"t_alpha"`` (the paper's cases
            1 to 4), of bits n, T = 2ⁿ = t, step size d and threshold α = d t.
        granularity: one α a layer, or one a channel.
        most: the largest T of a site.
        rate: how fast steps are learned, in units of what was found to do; 0: they stay (not with ``"d_alpha"``, whose
            steps are α/d, and α is trained).
        matched: scale learning rates such that t and α start to move alike in every parametrisation; without, α and
            d have that of the weights, steps and bits ``rate`` times it.
        settle: the share of the training after which the steps stay as they are.

    Example:
        >>> QAC(mean_timesteps=3).activation.parametrisation
        't_alpha'
    """
    activation = LearnedActivation(
        mean_timesteps=mean_timesteps,
        parametrisation=parametrisation,
        granularity=granularity,
        most=most,
        rate=rate,
        matched=matched,
        settle=settle,
    )
    return Recipe(name="QAC", timesteps=None, activation=activation, neuron=ConstantCurrentNeuron())
