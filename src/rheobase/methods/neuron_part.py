"""Neurons as parts of a recipe: what every site becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.core.values import Value
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.by_site import Levels, for_each_site
from rheobase.neurons import ConstantCurrent, IntegrateFire, Neuron, ParallelIF, Pasc
from rheobase.neurons.parallel import Order


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

    def with_timesteps(self, timesteps: int, *, always: bool = False) -> Self:
        """The same neurons for another T of the network.

        A T that all sites were given becomes this one; where none was given, the network's T is theirs.

        Args:
            timesteps: T.
            always: give it also where none was given, because the network's levels would decide otherwise.

        Raises:
            RecipeError: if sites were given a T of their own, or these neurons run for as many steps as there are
                levels.
        """
        given = getattr(self, "timesteps", None)
        if given is None and not always:
            return self
        if given is None:
            if "timesteps" not in type(self).model_fields:
                raise RecipeError(
                    f"{self.kind} neurons run for as many steps as the network has levels",
                    where="timesteps",
                    remedy=f"use levels={timesteps}, or leave the levels out",
                )
            return self.replace(timesteps=timesteps)
        if not isinstance(given, int):
            raise RecipeError(
                f"are {given!r}: sites have a T of their own, which one T for all would replace",
                where=f"timesteps of the {self.kind} neurons",
                remedy=f"write those for T = {timesteps} into the recipe",
            )
        return self.replace(timesteps=timesteps)


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
    if node.attributes["activation"] != "staircase":
        raise RecipeError(
            "is not a quantised activation, which this method needs",
            where=site.name,
            remedy="quantise and train the network first: rb.quantise(net, recipe, calibration=...), rb.train(...)",
        )
    return graph.tensor(node.parameters["threshold"]).clone(), int(node.attributes["levels"])
