"""Activations as parts of a recipe: what every site of the analog network is trained with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, Constraint, QuantisedActivation, Rounding
from rheobase.activations.staircase import Staircase
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.core.values import Value
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.by_site import Levels, for_each_site
from rheobase.passes.statistics import Granularity, histograms, maxima, percentiles
from rheobase.passes.thresholds import least_squares


class ActivationPart(Value, ABC):
    """What every site of the analog network is trained with: the part of a recipe that makes quantised activations.

    A subclass has its name as ``kind: Literal["my_activation"] = "my_activation"``; :func:`rheobase.register` makes it
    known. Its modules are :class:`rheobase.activations.QuantisedActivation`.
    """

    kind: str

    @property
    def constraint(self) -> Constraint | None:
        """What training holds the activations of all sites to, together; None: each trains by itself."""
        return None

    @abstractmethod
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
        """T that its levels decide, the same at every site; None where they differ, or training decides."""
        return None

    def with_timesteps(self, timesteps: int) -> Self:
        """The same activation for a network that runs for ``timesteps``; levels that were given stay.

        Raises:
            RecipeError: if levels were given site by site, and their steps with them.
        """
        raise RecipeError(
            "does not say how its levels follow from T", where=self.kind, remedy="write the T you want into the recipe"
        )


class StaircaseActivation(ActivationPart):
    """A quantised activation with trained θ at every site (:class:`rheobase.activations.Staircase`).

    Args:
        levels: L, for all sites or by the site's name; None: as the network was trained.
        rounding: how it rounds; ``"round"`` is QCFS.
        granularity: one θ a layer, as the papers have it, or one a channel.
        threshold: where θ starts: the least squared error of the staircase, an exact percentile, or the maximum.
        percentile: for ``"percentile"``.
    """

    kind: Literal["staircase"] = "staircase"
    levels: Levels | dict[str, Levels] | None = None
    rounding: Rounding = "round"
    granularity: Granularity = "layer"
    threshold: Literal["mse", "percentile", "max"] = "mse"
    percentile: float = Field(default=99.9, gt=0, le=100)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # levels may be a dict

    @property
    def timesteps(self) -> int | None:
        """L, where it is one number."""
        return self.levels if isinstance(self.levels, int) else None

    def with_timesteps(self, timesteps: int) -> Self:
        """L = T at every site, unless L was given."""
        if isinstance(self.levels, dict):
            raise RecipeError(
                "are given site by site, and their steps with them",
                where="levels",
                remedy=f"give those of T = {timesteps} in the recipe, or one number for all sites",
            )
        return self.replace(levels=timesteps) if self.levels is None else self

    def levels_of(self, sites: Sequence[Site]) -> dict[str, int]:
        """L of every site, in execution order.

        Raises:
            RecipeError: if they are not given, or for other sites.
        """
        if self.levels is None:
            raise RecipeError("are not given", where="levels", remedy="say how many, as levels=4 of the recipe")
        if isinstance(self.levels, int):
            return {site.name: self.levels for site in sites}
        return for_each_site(self.levels, [site.name for site in sites], "levels")

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse a network that was trained with other activations.

        Raises:
            RecipeError: naming the first such site.
        """
        expected = None if self.levels is None else self.levels_of(sites)
        for site in sites:
            if site.levels is None:
                continue  # the neuron says what it needs
            if expected is not None and site.levels != expected[site.name]:
                raise RecipeError(
                    f"was trained with {site.levels} levels, the recipe says {expected[site.name]}",
                    where=site.name,
                    remedy="leave levels out of the recipe, or quantise and train again with these",
                )
        check_trained(sites, self.rounding)

    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, QuantisedActivation]:
        """The activation of every site before training.

        Args:
            graph: the analog network, batch normalisation folded.
            images: calibration images; not looked at where every θ is known.
            sites: of the graph.
            known: θ of the sites that are quantised already, which they keep.

        Raises:
            RecipeError: if the levels are not given, or for other sites.
            CalibrationError: if a site is never active.
        """
        levels = self.levels_of(sites)
        thresholds = dict(known)
        if any(name not in known for name in levels):
            found = self.start(graph, images, sites, levels)
            thresholds = {name: known.get(name, value) for name, value in zip(levels, found, strict=True)}
        return {name: Staircase(levels[name], thresholds[name], self.rounding) for name in levels}

    def start(self, graph: Graph, images: Tensor, sites: Sequence[Site], levels: Mapping[str, int]) -> list[Tensor]:
        """θ of every site before training, [] or [C], from the activations of the folded analog network.

        Raises:
            CalibrationError: if a site is never active.
        """
        maximum = maxima(graph, images, self.granularity)
        check_active(sites, maximum)
        if self.threshold == "mse":
            counted = histograms(graph, images, self.granularity, maximum)
            potential = INITIAL_POTENTIAL["round"]  # of the others, the bias is for training to take away
            found = [least_squares(h, levels[s.name], potential) for s, h in zip(sites, counted, strict=True)]
        elif self.threshold == "percentile":
            found = percentiles(graph, images, self.granularity, self.percentile)
        else:
            found = maximum
        return [self._usable(value, largest) for value, largest in zip(found, maximum, strict=True)]

    def _usable(self, value: Tensor, largest: Tensor) -> Tensor:
        # a channel that is never active starts like the others: training may wake it
        value = torch.where(value > 0, value, largest)
        value = torch.where(value > 0, value, value[value > 0].mean())
        return value if self.granularity == "channel" else value[0]


def check_active(sites: Sequence[Site], maximum: Sequence[Tensor]) -> None:
    """See that every site has an activation above zero.

    Raises:
        CalibrationError: naming the first that has none.
    """
    for site, largest in zip(sites, maximum, strict=True):
        if not bool((largest > 0).any()):
            raise CalibrationError(
                "is never active on the calibration images",
                where=site.name,
                remedy="give more images, or remove the dead layer",
            )


def check_trained(sites: Sequence[Site], rounding: Rounding) -> None:
    """Refuse a network whose activations round another way.

    Raises:
        RecipeError: naming the first such site.
    """
    for site in sites:
        if site.levels is not None and site.rounding != rounding:
            raise RecipeError(
                f"was trained with rounding {site.rounding!r}, the recipe says {rounding!r}",
                where=site.name,
                remedy=f"use rounding={site.rounding!r}",
            )


ACTIVATION_PARTS: dict[str, type[ActivationPart]] = {"staircase": StaircaseActivation}
"""Every activation that a recipe can name, by its kind; :func:`rheobase.register` adds to them."""
