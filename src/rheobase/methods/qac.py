"""QAC: quantisation-aware conversion, a number of time-steps for every layer.

The method is a recipe (:func:`QAC`) of neurons under a constant current and of an activation that learns its levels
(:class:`LearnedActivation`). What trains at a site is ``activations/learned_staircase.py``; how the mean of T is held,
``activations/step_target.py``; the calibration of section 4.4, ``passes/surrogate_calibration.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, QuantisedActivation
from rheobase.activations.learned_staircase import LearnedStaircase, Parametrisation
from rheobase.activations.step_target import StepTarget
from rheobase.core.errors import RecipeError
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.activation_part import (
    ACTIVATION_PARTS,
    ActivationPart,
    StaircaseActivation,
    check_active,
    check_trained,
)
from rheobase.methods.neuron_part import ConstantCurrentNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity, Histogram, histograms, maxima
from rheobase.passes.thresholds import least_squares

MeanSteps = Annotated[FiniteFloat, Field(ge=1, strict=True)] | Literal["free"]

FREE_START = 4
"""Levels that every site starts with where no mean is wanted: two bits."""


class LearnedActivation(ActivationPart):
    """A quantised activation that learns its levels (:class:`rheobase.activations.LearnedStaircase`),
    at every site.

    Training starts from the levels that divide the wanted sum best: beginning with one a site, each further one goes to
    the site where it takes away the largest part of the activation's energy, by the histograms of the calibration
    images; α has the least squared error for them.

    Args:
        mean_timesteps: the mean of T over the sites that training holds to; ``"free"``: only the bound holds, as in the
            paper; None: as the network was trained.
        parametrisation: which two numbers a site trains (QAC, section 4.2).
        granularity: one α a layer, or one a channel.
        max_timesteps: the largest T of a site.
        rate: how fast steps are learned, in units of what was found to do; 0: they stay (not with ``"d_alpha"``).
        matched: whether the other parametrisations get learning rates that move t and α alike at the start; without, α
            and d have that of the weights, steps and bits ``rate`` times it.
        freeze_after: the share of the training after which levels stay as they are.
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
                f"mean_timesteps {self.mean_timesteps:g} is above the bound of a site, "
                f"max_timesteps={self.max_timesteps}"
            )
        if self.parametrisation == "d_alpha" and self.granularity == "channel":
            raise ValueError("d_alpha has one threshold a layer: t = α/d would differ from channel to channel")
        return self

    @property
    def constraint(self) -> StepTarget:
        """The mean of T that training holds the levels to."""
        mean = self.mean_timesteps if isinstance(self.mean_timesteps, float | int) else None
        return StepTarget(mean, self.max_timesteps, self.freeze_after)

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse a network that was trained with other activations, or for a larger mean of T.

        Raises:
            RecipeError: naming the site, or both means.
        """
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
        """A mean T over the sites of so many."""
        if self.mean_timesteps == "free":
            raise RecipeError(
                "is free: training alone decides for how many steps the sites run",
                where="mean_timesteps",
                remedy=f"use rb.QAC(mean_timesteps={timesteps})",
            )
        return self.replace(mean_timesteps=timesteps)

    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, QuantisedActivation]:
        """The activation of every site before training.

        Args:
            graph: the analog network, batch normalisation folded.
            images: calibration images.
            sites: of the graph.
            known: θ of the sites that are quantised already, which they keep.

        Raises:
            RecipeError: if no mean is given.
            CalibrationError: if a site is never active.
        """
        if self.mean_timesteps is None:
            raise RecipeError("is not given", where="mean_timesteps", remedy="say which: rb.QAC(mean_timesteps=3)")
        levels = self.start_levels(graph, images, sites)
        alpha = dict(known)
        if any(site.name not in known for site in sites):
            fixed = StaircaseActivation(levels=levels, granularity=self.granularity)
            found = fixed.start(graph, images, sites, levels)
            alpha = {site.name: known.get(site.name, value) for site, value in zip(sites, found, strict=True)}
        if self.parametrisation == "d_alpha":
            wide = next((name for name, value in alpha.items() if value.dim()), None)
            if wide is not None:
                raise RecipeError(
                    "was trained with a threshold for each channel, and d_alpha has one a layer",
                    where=wide,
                    remedy='use parametrisation="t_alpha"',
                )
        return {
            site.name: LearnedStaircase(
                self.parametrisation,
                levels[site.name],
                alpha[site.name],
                max_timesteps=self.max_timesteps,
                rate=self.rate,
                matched=self.matched,
            )
            for site in sites
        }

    def start_levels(self, graph: Graph, images: Tensor, sites: Sequence[Site]) -> dict[str, int]:
        """Levels of every site before training, in execution order.

        Raises:
            CalibrationError: if a site is never active.
        """
        if self.constraint.mean is None:
            return {site.name: min(FREE_START, self.max_timesteps) for site in sites}
        maximum = maxima(graph, images, "layer")
        check_active(sites, maximum)
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
    """Squared error of the best staircase with so many levels, in units of Σa²."""
    potential = INITIAL_POTENTIAL["round"]
    theta = least_squares(histogram, levels, potential).double().unsqueeze(1)
    weights, a = histogram.counts.double(), histogram.centres()
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
    """The network learns how many steps each site needs; neurons take the mean of what arrives (QAC, section 4).

    The network is quantised and trained first: ``rb.quantise(net, rb.QAC(mean_timesteps=3), ...)``, ``rb.train``.

    Args:
        mean_timesteps: mean T over the sites, from 1, which training holds to; ``"free"``: none, as in the paper; None:
            as trained.
        parametrisation: what a site trains: ``"n_d"``, ``"n_alpha"``, ``"d_alpha"`` or ``"t_alpha"`` (the paper's cases
            1 to 4), of bits n, T = 2ⁿ = t, step size d and threshold α = d t.
        granularity: one α a layer, or one a channel.
        max_timesteps: the largest T of a site.
        rate: how fast steps are learned, in units of what was found to do; 0: they stay (not with ``"d_alpha"``, whose
            steps are α/d, and α is trained).
        matched: scale learning rates such that t and α start to move alike in every parametrisation; without, α and
            d have that of the weights, steps and bits ``rate`` times it.
        freeze_after: the share of the training after which the steps stay as they are.

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
