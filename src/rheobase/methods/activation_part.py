"""Activations as parts of a recipe: the activation that the analog network is trained with at every site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from rheobase.activations import Constraint, QuantisedActivation, Rounding, Staircase
from rheobase.activations.activation import INITIAL_POTENTIAL
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.core.values import Value
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.neuron_part import BySite, for_each_site
from rheobase.passes.statistics import Granularity, histograms, maxima, percentiles
from rheobase.passes.thresholds import least_squares

InitialThreshold = Literal["mse", "percentile", "max"] | Annotated[FiniteFloat, Field(gt=0)]
"""θ before training: the least squared error of the staircase, an exact percentile, the maximum, or this number."""


class ActivationPart(Value, ABC):
    """The part of a recipe that builds the quantised activation of every site of the analog network.

    A subclass names itself by ``kind: Literal["my_activation"] = "my_activation"`` and is registered by
    :func:`rheobase.register`. Its modules are :class:`rheobase.activations.QuantisedActivation`.
    """

    kind: str

    @property
    def constraint(self) -> Constraint | None:
        """The constraint on the activations of all sites together in training; None: each is trained independently."""
        return None

    @abstractmethod
    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, QuantisedActivation]:
        """The activation of every site before training.

        Args:
            graph: the analog network, batch normalisation folded.
            images: calibration images.
            sites: all sites of the graph.
            known: θ of the sites that are already quantised, which they keep.

        Raises:
            RecipeError: if a field that training needs is missing, or does not fit the sites.
            CalibrationError: if a site is never active.
        """

    @abstractmethod
    def check(self, sites: Sequence[Site]) -> None:
        """Refuse a network that was trained with other activations.

        Raises:
            RecipeError: naming the first such site.
        """

    @property
    def timesteps(self) -> int | None:
        """T determined by the levels; None if it differs between sites or is learned in training."""
        return None

    def with_timesteps(self, timesteps: int) -> Self:
        """The same activation for a network that runs for ``timesteps``; levels that were given stay.

        Raises:
            RecipeError: if levels were given site by site, which also fixes T of every site.
        """
        raise RecipeError(
            "does not define with_timesteps(), so its levels do not follow from T",
            where=self.kind,
            remedy="set T and the levels in the recipe itself",
        )


class StaircaseActivation(ActivationPart):
    """A quantised activation with trained θ at every site (:class:`rheobase.activations.Staircase`).

    Args:
        levels: L, for all sites or by site name; None: as the network was trained.
        rounding: Q; ``"round"`` is QCFS.
        granularity: one θ per layer, as in the papers, or per channel.
        threshold: initial θ: the least squared error of the staircase, an exact percentile or the maximum on the
            images, or a number for every site.
        percentile: in percent, for ``threshold="percentile"``.
    """

    kind: Literal["staircase"] = "staircase"
    levels: BySite | None = None
    rounding: Rounding = "round"
    granularity: Granularity = "layer"
    threshold: InitialThreshold = "mse"
    percentile: float = Field(default=99.9, gt=0, le=100)

    @property
    def timesteps(self) -> int | None:
        """L if it is the same at every site, else None."""
        return self.levels if isinstance(self.levels, int) else None

    def with_timesteps(self, timesteps: int) -> Self:
        """L = T at every site, unless L was given."""
        if isinstance(self.levels, dict):
            raise RecipeError(
                "are given site by site, which fixes T of every site",
                where="levels",
                remedy=f"give the levels for T = {timesteps} in the recipe, or one number for all sites",
            )
        return self.replace(levels=timesteps) if self.levels is None else self

    def levels_of(self, sites: Sequence[Site]) -> dict[str, int]:
        """L of every site, in execution order; refuse levels that are not given or not those of the sites."""
        if self.levels is None:
            raise RecipeError("are not given", where="levels", remedy="give them to the recipe, such as levels=4")
        return for_each_site(self.levels, [site.name for site in sites], "levels")

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse a network that was trained with other levels or another rounding."""
        expected = None if self.levels is None else self.levels_of(sites)
        for site in sites:
            if site.levels is None:
                continue  # the neuron part refuses the site if it needs a quantised activation
            if expected is not None and site.levels != expected[site.name]:
                raise RecipeError(
                    f"was trained with {site.levels} levels, the recipe has {expected[site.name]}",
                    where=site.name,
                    remedy="leave levels out of the recipe, or quantise and train again with these",
                )
        check_trained(sites, self.rounding)

    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, QuantisedActivation]:
        """A :class:`rheobase.activations.Staircase` at every site; the images are not used if every θ is known."""
        levels = self.levels_of(sites)
        thresholds = self.start(graph, images, sites, levels, known)
        return {name: Staircase(levels[name], thresholds[name], self.rounding) for name in levels}

    def start(
        self,
        graph: Graph,
        images: Tensor,
        sites: Sequence[Site],
        levels: Mapping[str, int],
        known: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """θ of every site before training, [] or [C]: ``known``, or fitted to the folded analog network."""
        if all(site.name in known for site in sites):
            return dict(known)
        if not isinstance(self.threshold, str):
            shape = {site.name: (site.channels,) if self.granularity == "channel" else () for site in sites}
            return {**{name: torch.full(shape[name], float(self.threshold)) for name in shape}, **known}
        maximum = active_maxima(graph, images, sites, self.granularity)
        if self.threshold == "mse":
            counted = histograms(graph, images, self.granularity, maximum)
            potential = INITIAL_POTENTIAL["round"]  # training removes the bias of floor and ceil
            found = [least_squares(h, levels[s.name], potential) for s, h in zip(sites, counted, strict=True)]
        elif self.threshold == "percentile":
            found = percentiles(graph, images, self.granularity, self.percentile)
        else:
            found = maximum
        fitted = {s.name: self._usable(*values) for s, *values in zip(sites, found, maximum, strict=True)}
        return {**fitted, **known}

    def _usable(self, value: Tensor, largest: Tensor) -> Tensor:
        # a channel that is never active starts with the mean of the others: training may activate it
        value = torch.where(value > 0, value, largest)
        value = torch.where(value > 0, value, value[value > 0].mean())
        return value if self.granularity == "channel" else value[0]


def active_maxima(graph: Graph, images: Tensor, sites: Sequence[Site], granularity: Granularity) -> list[Tensor]:
    """Largest activation of every site; refuse a site that is never active."""
    maximum = maxima(graph, images, granularity)
    for site, largest in zip(sites, maximum, strict=True):
        if not bool((largest > 0).any()):
            raise CalibrationError(
                "is never active on the calibration images",
                where=site.name,
                remedy="give more calibration images, or remove the layer",
            )
    return maximum


def check_trained(sites: Sequence[Site], rounding: Rounding) -> None:
    """Refuse a network that was trained with another rounding, naming the first such site."""
    for site in sites:
        if site.levels is not None and site.rounding != rounding:
            raise RecipeError(
                f"was trained with rounding {site.rounding!r}, the recipe has {rounding!r}",
                where=site.name,
                remedy=f"use rounding={site.rounding!r}",
            )


ACTIVATION_PARTS: dict[str, type[ActivationPart]] = {"staircase": StaircaseActivation}
"""Activations that a recipe can name, by kind; :func:`rheobase.register` adds one."""
