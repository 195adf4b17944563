"""QAC: quantisation-aware conversion, with a learned number of time-steps at every site.

The trained activation of a site is in ``activations/learned_staircase.py``, the constraint on the mean of T in
``activations/step_target.py``, the calibration of section 4.4 in ``passes/surrogate_calibration.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from rheobase.activations import LearnedStaircase, QuantisedActivation, StepTarget
from rheobase.activations.activation import INITIAL_POTENTIAL
from rheobase.activations.learned_staircase import Parametrisation
from rheobase.core.errors import RecipeError
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.activation_part import (
    ACTIVATION_PARTS,
    ActivationPart,
    StaircaseActivation,
    active_maxima,
    check_trained,
)
from rheobase.methods.neuron_part import ConstantCurrentNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity, Histogram, histograms
from rheobase.passes.thresholds import least_squares

MeanSteps = Annotated[FiniteFloat, Field(ge=1, strict=True)] | Literal["free"]

FREE_START = 4
"""Initial levels of every site if no mean is given: two bits."""


class LearnedActivation(ActivationPart):
    """A quantised activation that learns its levels (:class:`rheobase.activations.LearnedStaircase`) at every site.

    The initial levels distribute the sum of T over the sites greedily: every site starts with one level, and each
    further level is added at the site where it reduces the relative squared error of the activation most, by the
    histograms of the calibration images. The initial α minimises the squared error for these levels.

    Args:
        mean_timesteps, parametrisation, granularity, max_timesteps, rate, matched, freeze_after: see :func:`QAC`.
    """

    kind: Literal["learned_staircase"] = "learned_staircase"
    mean_timesteps: MeanSteps | None = None
    parametrisation: Parametrisation = "t_alpha"
    granularity: Granularity = "layer"
    max_timesteps: Annotated[int, Field(ge=2, strict=True)] = 32
    rate: FiniteFloat = Field(default=1.0, ge=0)
    matched: bool = True
    freeze_after: float = Field(default=0.6, ge=0, le=1)

    @model_validator(mode="after")
    def _fields_go_together(self) -> LearnedActivation:
        if isinstance(self.mean_timesteps, float | int) and self.mean_timesteps > self.max_timesteps:
            raise ValueError(
                f"mean_timesteps {self.mean_timesteps:g} is above the upper bound of T, "
                f"max_timesteps={self.max_timesteps}"
            )
        if self.parametrisation == "d_alpha" and self.granularity == "channel":
            raise ValueError("d_alpha needs granularity='layer': t = α/d would differ between channels")
        return self

    @property
    def constraint(self) -> StepTarget:
        """The constraint on the mean of T in training."""
        mean = self.mean_timesteps if isinstance(self.mean_timesteps, float | int) else None
        return StepTarget(mean, self.max_timesteps, self.freeze_after)

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse a network that was trained with other activations, or for a larger mean of T."""
        check_trained(sites, "round")
        levels = [site.levels for site in sites if site.levels is not None]
        mean = self.constraint.mean
        if mean is not None and len(levels) == len(sites) and sum(levels) > self.constraint.budget(len(levels)):
            raise RecipeError(
                f"is {mean:g}, and the network was trained with a mean of {sum(levels) / len(levels):g}",
                where="mean_timesteps",
                remedy="leave it out of the recipe, or quantise and train again with it",
            )

    def with_timesteps(self, timesteps: int) -> Self:
        """The same activation with a mean T of ``timesteps`` over the sites."""
        if self.mean_timesteps == "free":
            raise RecipeError(
                "is 'free', so training determines T",
                where="mean_timesteps",
                remedy=f"use rb.QAC(mean_timesteps={timesteps})",
            )
        return self.replace(mean_timesteps=timesteps)

    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, QuantisedActivation]:
        """A :class:`rheobase.activations.LearnedStaircase` at every site."""
        if self.mean_timesteps is None:
            raise RecipeError("is not given", where="mean_timesteps", remedy="give it, as in rb.QAC(mean_timesteps=3)")
        levels = self.start_levels(graph, images, sites)
        alpha = StaircaseActivation(granularity=self.granularity).start(graph, images, sites, levels, known)
        wide = next((site.name for site in sites if alpha[site.name].dim()), None)
        if self.parametrisation == "d_alpha" and wide is not None:
            raise RecipeError(
                "was trained with a threshold for each channel, but d_alpha needs one per layer",
                where=wide,
                remedy='use parametrisation="t_alpha"',
            )
        options: Any = {"max_timesteps": self.max_timesteps, "rate": self.rate, "matched": self.matched}
        return {
            name: LearnedStaircase(self.parametrisation, level, alpha[name], **options)
            for name, level in levels.items()
        }

    def start_levels(self, graph: Graph, images: Tensor, sites: Sequence[Site]) -> dict[str, int]:
        """Initial levels of every site, in execution order."""
        if self.constraint.mean is None:
            return {site.name: min(FREE_START, self.max_timesteps) for site in sites}
        maximum = active_maxima(graph, images, sites, "layer")
        counted = histograms(graph, images, "layer", maximum)
        levels = [1] * len(sites)
        errors = [_relative_error(histogram, 1) for histogram in counted]
        gains = [error - _relative_error(histogram, 2) for error, histogram in zip(errors, counted, strict=True)]
        for _ in range(self.constraint.budget(len(sites)) - len(sites)):
            i = max(range(len(sites)), key=lambda i: gains[i])
            levels[i] += 1
            errors[i] -= gains[i]
            further = levels[i] < self.max_timesteps
            gains[i] = errors[i] - _relative_error(counted[i], levels[i] + 1) if further else -torch.inf
        return {site.name: level for site, level in zip(sites, levels, strict=True)}


def _relative_error(histogram: Histogram, levels: int) -> float:
    """Squared error of the best staircase with ``levels`` levels, in units of Σa²."""
    potential = INITIAL_POTENTIAL["round"]
    theta = least_squares(histogram, levels, potential).double().unsqueeze(1)
    weights, a = histogram.counts.double(), histogram.maximum.double().unsqueeze(1) * histogram.middles()
    rounded = theta / levels * torch.clamp(torch.floor(a * levels / theta + potential), 0, levels)
    return float((weights * (a - rounded).square()).sum() / (weights * a.square()).sum())


ACTIVATION_PARTS["learned_staircase"] = LearnedActivation


@published
def QAC(
    mean_timesteps: MeanSteps | None = None,
    parametrisation: Parametrisation = "t_alpha",
    granularity: Granularity = "layer",
    max_timesteps: int = 32,
    rate: float = 1.0,
    matched: bool = True,
    freeze_after: float = 0.6,
) -> Recipe:
    """Learn T of every site in training; neurons are driven by the time-mean of their current (QAC, section 4).

    Quantise and train the network first: ``rb.quantise(net, rb.QAC(mean_timesteps=3), ...)``, ``rb.train``.

    Args:
        mean_timesteps: mean T over the sites, at least 1, enforced in training; ``"free"``: not enforced, as in the
            paper; None: as trained.
        parametrisation: the two trained numbers of a site: ``"n_d"``, ``"n_alpha"``, ``"d_alpha"`` or ``"t_alpha"``
            (the paper's cases 1 to 4), of bits n, T = 2ⁿ = t, step size d and threshold α = d t.
        granularity: one α per layer or per channel.
        max_timesteps: upper bound of T at every site.
        rate: learning rate of the steps, relative to the default; 0: the steps are fixed (not with ``"d_alpha"``, whose
            steps are α/d with a trained α).
        matched: scale learning rates such that t and α initially move alike in every parametrisation; if False, α and d
            have the learning rate of the weights, steps and bits ``rate`` times it.
        freeze_after: fraction of the training after which the steps are frozen.

    Example:
        >>> QAC(mean_timesteps=3).activation.parametrisation
        't_alpha'
    """
    activation = LearnedActivation(
        mean_timesteps=mean_timesteps,
        parametrisation=parametrisation,
        granularity=granularity,
        max_timesteps=max_timesteps,
        rate=rate,
        matched=matched,
        freeze_after=freeze_after,
    )
    return Recipe(name="QAC", timesteps=None, activation=activation, neuron=ConstantCurrentNeuron())
