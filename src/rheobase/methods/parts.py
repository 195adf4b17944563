"""What a recipe is made of, beside its calibration passes: the activation to train with and the neuron."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, QuantisedActivation, Rounding
from rheobase.activations.staircase import Staircase
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.core.values import Value
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.neurons import ConstantCurrent, IntegrateFire, Neuron, ParallelIF, Pasc
from rheobase.neurons.parallel import Order
from rheobase.passes.statistics import Granularity, histograms, maxima, percentiles
from rheobase.passes.thresholds import least_squares

Levels = Annotated[int, Field(ge=1, strict=True)]


def for_each_site(values: Mapping[str, int], names: Sequence[str], what: str) -> dict[str, int]:
    """A whole number for every site, in execution order, from one by the site's name.

    Raises:
        RecipeError: if a site has none, or a name is no site.
    """
    wrong = [f"no {what} for {name}" for name in names if name not in values]
    wrong += [f"{name} is no site" for name in values if name not in names]
    if wrong:
        raise RecipeError("; ".join(wrong[:5]), where=what, remedy=f"the sites are {', '.join(names)}")
    return {name: values[name] for name in names}


class StaircaseActivation(Value):
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
    def target(self) -> None:
        """Its levels do not change in training."""
        return None

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


class NeuronPart(Value, ABC):
    """What every site becomes: the part of a recipe that builds neurons.

    A subclass has its name as ``kind: Literal["my_neuron"] = "my_neuron"``; :func:`rheobase.register` makes it known.
    """

    kind: str
    builds: ClassVar[type[Neuron]]
    """The class of the neurons."""

    @abstractmethod
    def build(self, site: Site, graph: Graph) -> Neuron:
        """The layer of neurons for a site.

        Args:
            site: name, shape, neighbours, and what its activation is.
            graph: the analog network as the conversion takes it.

        Raises:
            RecipeError: if the site cannot have such neurons.
        """


class IntegrateFireNeuron(NeuronPart):
    """Integrate-and-fire with soft reset at every site.

    Args:
        initial_potential: V0/θ, between 0 and 1; ½ makes the neuron round to nearest (Bu et al. 2022, OPI).
        timesteps: T of every site, or by the site's name, or ``"levels"``: as many as it was trained with; None: the
            recipe's. Where it differs from site to site, the recipe's ``alignment`` says what becomes of trains.
    """

    kind: Literal["integrate_fire"] = "integrate_fire"
    builds = IntegrateFire
    initial_potential: float = Field(default=0.5, ge=0, le=1)
    timesteps: Levels | dict[str, Levels] | Literal["levels"] | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # timesteps may be a dict

    def build(self, site: Site, graph: Graph) -> IntegrateFire:
        """The layer of neurons for a site, with θ = 1 until a pass sets it."""
        steps = trained(site, graph)[1] if self.timesteps == "levels" else steps_of_site(self.timesteps, site, graph)
        return IntegrateFire(torch.tensor(1.0), torch.tensor(self.initial_potential), timesteps=steps)


class PascNeuron(NeuronPart):
    """The spike-counting neuron of PASCAL, with the θ and the levels that the site was trained with."""

    kind: Literal["pasc"] = "pasc"
    builds = Pasc

    def build(self, site: Site, graph: Graph) -> Neuron:
        """The layer of neurons for a site."""
        threshold, levels = trained(site, graph)
        return Pasc(threshold, levels, site.rounding)


class ConstantCurrentNeuron(NeuronPart):
    """Integrate-and-fire under the mean of its current, with the θ that the site was trained with.

    Args:
        initial_potential: V0/θ; default the one that belongs to the activation's rounding.
        timesteps: T of every site, or by the site's name; default the levels it was trained with.
    """

    kind: Literal["constant_current"] = "constant_current"
    builds = ConstantCurrent
    initial_potential: float | None = Field(default=None, ge=0, le=1)
    timesteps: Levels | dict[str, Levels] | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # timesteps may be a dict

    def build(self, site: Site, graph: Graph) -> Neuron:
        """The layer of neurons for a site."""
        threshold, levels = trained(site, graph)
        steps = steps_of_site(self.timesteps, site, graph) or levels
        return ConstantCurrent(threshold, steps, site.rounding, self.initial_potential)


def steps_of_site(timesteps: int | Mapping[str, int] | None, site: Site, graph: Graph) -> int | None:
    """T of a site, from one for all or by name.

    Raises:
        RecipeError: if those given by name are not the network's sites.
    """
    if timesteps is None or isinstance(timesteps, int):
        return timesteps
    return for_each_site(timesteps, [node.name for node in graph.sites], "timesteps")[site.name]


class ParallelNeuron(NeuronPart):
    """Parallel integrate-and-fire at every site: all spikes at once, from the mean current.

    Args:
        timesteps: T.
        initial_potential: ψ/θ; ½ rounds to the nearest.
        order: spikes last, as in DA calibration, or first, as in FS-PC's code.
    """

    kind: Literal["parallel"] = "parallel"
    builds = ParallelIF
    timesteps: Levels
    initial_potential: float = Field(default=0.5, ge=0, le=1)
    order: Order = "last"

    def build(self, site: Site, graph: Graph) -> ParallelIF:
        """The layer of neurons for a site, with θ = 1 until a pass sets it."""
        return ParallelIF(torch.tensor(1.0), self.timesteps, self.initial_potential, order=self.order)


NEURON_PARTS: dict[str, type[NeuronPart]] = {
    cls.model_fields["kind"].default: cls
    for cls in (IntegrateFireNeuron, PascNeuron, ConstantCurrentNeuron, ParallelNeuron)
}
"""Every neuron that a recipe can name, by its kind; :func:`rheobase.register` adds to them."""


def trained(site: Site, graph: Graph) -> tuple[Tensor, int]:
    """(θ, L) of a site with a quantised activation.

    Raises:
        RecipeError: if it has another one.
    """
    (node,) = (node for node in graph.sites if node.name == site.name)
    if site.levels is None or "threshold" not in node.parameters:
        raise RecipeError(
            "is not a quantised activation, which this method needs",
            where=site.name,
            remedy="quantise and train the network first: rb.quantise(net, recipe, calibration=...), rb.train(...)",
        )
    return graph.tensor(node.parameters["threshold"]).clone(), site.levels
