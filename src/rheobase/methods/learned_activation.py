"""The activation whose levels are learned, as a part of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, QuantisedActivation, Rounding
from rheobase.activations.learned_staircase import LearnedStaircase, Parametrisation
from rheobase.activations.step_target import StepTarget
from rheobase.core.errors import RecipeError
from rheobase.core.values import Value
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.parts import StaircaseActivation, check_active, check_trained
from rheobase.passes.statistics import Granularity, Histogram, histograms, maxima
from rheobase.passes.thresholds import least_squares

MeanSteps = Annotated[FiniteFloat, Field(ge=1, strict=True)] | Literal["free"]

FREE_START = 4
"""Levels that every site starts with where no mean is wanted: two bits."""


class LearnedActivation(Value):
    """A quantised activation that learns its levels (:class:`rheobase.activations.learned_staircase.LearnedStaircase`),
    at every site.

    Training starts from the levels that divide the wanted sum best: beginning with one a site, each further one goes to
    the site where it takes away the largest part of the activation's energy, by the histograms of the calibration
    images; α has the least squared error for them.

    Args:
        mean_timesteps: the mean of T over the sites that training holds to; ``"free"``: only the bound holds, as in the
            paper; None: as the network was trained.
        parametrisation: which two numbers a site trains (QAC, section 4.2).
        granularity: one α a layer, or one a channel.
        most: the largest T of a site.
        rate: how fast steps are learned, in units of what was found to do; 0: they stay (not with ``"d_alpha"``).
        matched: whether the other parametrisations get learning rates that move t and α alike at the start; without, α
            and d have that of the weights, steps and bits ``rate`` times it.
        settle: the share of the training after which levels stay as they are.
    """

    kind: Literal["learned_staircase"] = "learned_staircase"
    mean_timesteps: MeanSteps | None = None
    parametrisation: Parametrisation = "t_alpha"
    granularity: Granularity = "layer"
    most: Annotated[int, Field(ge=2, strict=True)] = 32
    rate: FiniteFloat = Field(default=1.0, ge=0)
    matched: bool = True
    settle: float = Field(default=0.6, ge=0, le=1)

    @model_validator(mode="after")
    def _fields_go_together(self) -> LearnedActivation:
        if isinstance(self.mean_timesteps, float | int) and self.mean_timesteps > self.most:
            raise ValueError(f"mean_timesteps {self.mean_timesteps:g} is above the bound of a site, most={self.most}")
        if self.parametrisation == "d_alpha" and self.granularity == "channel":
            raise ValueError("d_alpha has one threshold a layer: t = α/d would differ from channel to channel")
        return self

    @property
    def rounding(self) -> Rounding:
        """To the nearest."""
        return "round"

    @property
    def target(self) -> StepTarget:
        """What training holds the levels to."""
        mean = self.mean_timesteps if isinstance(self.mean_timesteps, float | int) else None
        return StepTarget(mean, self.most, self.settle)

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse a network that was trained with other activations, or for a larger mean of T.

        Raises:
            RecipeError: naming the site, or both means.
        """
        check_trained(sites, self.rounding)
        levels = [site.levels for site in sites if site.levels is not None]
        mean = self.target.mean
        if mean is not None and len(levels) == len(sites) and sum(levels) > self.target.budget(len(levels)):
            raise RecipeError(
                f"is {mean:g}, and the network was trained with a mean of {sum(levels) / len(levels):g}",
                where="mean_timesteps",
                remedy="leave it out of the recipe, or quantise and train again with it",
            )

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
                most=self.most,
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
        if self.target.mean is None:
            return {site.name: min(FREE_START, self.most) for site in sites}
        maximum = maxima(graph, images, "layer")
        check_active(sites, maximum)
        counted = histograms(graph, images, "layer", maximum)
        levels = [1] * len(sites)
        errors = [_relative_error(histogram, 1) for histogram in counted]
        gains = [error - _relative_error(histogram, 2) for error, histogram in zip(errors, counted, strict=True)]
        for _ in range(self.target.budget(len(sites)) - len(sites)):
            i = max(range(len(sites)), key=lambda i: gains[i])
            levels[i] += 1
            errors[i] -= gains[i]
            further = levels[i] < self.most
            gains[i] = errors[i] - _relative_error(counted[i], levels[i] + 1) if further else -torch.inf
        return {site.name: level for site, level in zip(sites, levels, strict=True)}


def _relative_error(histogram: Histogram, levels: int) -> float:
    """Squared error of the best staircase with so many levels, in units of Σa²."""
    potential = INITIAL_POTENTIAL["round"]
    theta = least_squares(histogram, levels, potential).double().unsqueeze(1)
    weights, a = histogram.counts.double(), histogram.centres()
    rounded = theta / levels * torch.clamp(torch.floor(a * levels / theta + potential), 0, levels)
    return float((weights * (a - rounded).square()).sum() / (weights * a.square()).sum())
