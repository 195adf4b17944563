"""Neurons as parts of a recipe: the neurons of every site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.core.seeds import MAX_SEED, derive
from rheobase.core.values import Value
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.neurons import (
    Burst,
    ConstantCurrent,
    Graded,
    IntegrateFire,
    MembraneNeuron,
    MultiThreshold,
    Neuron,
    ParallelIF,
    Pasc,
    Probabilistic,
    Signed,
    TemporalSwitch,
)
from rheobase.neurons.graded import MAX_MAGNITUDE
from rheobase.neurons.parallel import Order

Levels = Annotated[int, Field(ge=1, strict=True)]
Magnitude = Annotated[int, Field(ge=1, le=MAX_MAGNITUDE, strict=True)]
BySite = Levels | dict[str, Levels]
"""One whole number for all sites, or one by site name."""


class NeuronPart(Value, ABC):
    """The part of a recipe that builds the neurons of every site.

    A subclass names itself by ``kind: Literal["my_neuron"] = "my_neuron"`` and is registered by
    :func:`rheobase.register`.
    """

    kind: str
    builds: ClassVar[type[Neuron]]
    """The class of the neurons."""

    @abstractmethod
    def build(self, site: Site, graph: Graph) -> Neuron:
        """Build the neurons of a site.

        Args:
            site: name, shape, neighbours and activation of the site.
            graph: the analog network, batch normalisation folded.

        Raises:
            RecipeError: if these neurons cannot replace the site's activation.
        """

    def at(self, site: Site, graph: Graph) -> Neuron:
        """:meth:`build`, and check that the neurons can emit the values of the site.

        Raises:
            RecipeError: if the activation can be negative and the neurons' net output cannot.
        """
        neuron = self.build(site, graph)
        if site.lower < 0 and neuron.capacity(1)[0] >= 0:
            raise RecipeError(
                f"has negative values, which {type(neuron).__name__} neurons cannot emit",
                where=site.name,
                remedy='use neurons that emit spikes of both signs, such as those of rb.Graded, or sites="activations"',
            )
        return neuron

    def with_timesteps(self, timesteps: int, *, always: bool = False) -> Self:
        """The same neurons for another T of the network; they keep to it if their own T was not given.

        Args:
            timesteps: T.
            always: set T also if it was not given, because the levels of the network would determine it otherwise.

        Raises:
            RecipeError: if T was given site by site, or these neurons run for as many steps as there are levels.
        """
        given = getattr(self, "timesteps", None)
        if given is None and not always:
            return self
        if "timesteps" not in type(self).model_fields:
            raise RecipeError(
                f"{self.kind} neurons run for as many steps as the network has levels",
                where="timesteps",
                remedy=f"use levels={timesteps}, or leave the levels out",
            )
        if not isinstance(given, int | None):
            raise RecipeError(
                f"are {given!r}, which one T for all sites would overwrite",
                where=f"timesteps of the {self.kind} neurons",
                remedy=f"set T of the sites for T = {timesteps} in the recipe itself",
            )
        return self.replace(timesteps=timesteps)


class MembranePart(NeuronPart):
    """The base of parts that build neurons with a membrane potential.

    Args:
        initial_potential: V0/θ, between 0 and 1; ½ makes the neuron round to nearest (Bu et al. 2022, OPI).
        timesteps: T of every site, or by site name, or ``"levels"``: the levels that the site was trained with; None:
            T of the recipe. Where T differs between sites, the ``alignment`` of the recipe adapts the spike trains.
    """

    builds: ClassVar[type[MembraneNeuron]]
    initial_potential: float = Field(default=0.5, ge=0, le=1)
    timesteps: BySite | Literal["levels"] | None = None

    def build(self, site: Site, graph: Graph) -> MembraneNeuron:
        """Build the neurons of a site, with θ = 1 until a pass sets it."""
        steps = trained(site, graph)[1] if self.timesteps == "levels" else steps_of_site(self.timesteps, site, graph)
        v0 = torch.tensor(self.initial_potential)
        return self.builds(torch.tensor(1.0), v0, timesteps=steps, **self.options(site))

    def options(self, site: Site) -> dict[str, Any]:
        """Further arguments of the neurons' constructor."""
        return {}


class IntegrateFireNeuron(MembranePart):
    """Integrate-and-fire with soft reset at every site.

    Args:
        initial_potential, timesteps: see :class:`MembranePart`.
    """

    kind: Literal["integrate_fire"] = "integrate_fire"
    builds = IntegrateFire


class MagnitudePart(MembranePart):
    """The base of parts whose neurons emit several spikes in a step, or take spikes back.

    Args:
        magnitude: m, the largest number of spikes in a step.
        initial_potential, timesteps: see :class:`MembranePart`.
    """

    magnitude: Magnitude = 1

    def options(self, site: Site) -> dict[str, Any]:
        """The magnitude; of signed neurons also that the net output is not negative where the activation is not."""
        signed = {"nonnegative": site.lower >= 0} if issubclass(self.builds, Graded) else {}
        return {"magnitude": self.magnitude, **signed}


class GradedNeuron(MagnitudePart):
    """Graded spikes that can be taken back at every site; see :class:`rheobase.neurons.Graded`.

    Args:
        magnitude, initial_potential, timesteps: see :class:`MagnitudePart`.
    """

    kind: Literal["graded"] = "graded"
    builds = Graded


class SignedNeuron(MagnitudePart):
    """Signed neurons with memory at every site; see :class:`rheobase.neurons.Signed`.

    Args:
        magnitude, initial_potential, timesteps: see :class:`MagnitudePart`.
    """

    kind: Literal["signed"] = "signed"
    builds = Signed


class MultiThresholdNeuron(MagnitudePart):
    """Spikes of signed powers of two at every site; see :class:`rheobase.neurons.MultiThreshold`.

    Args:
        magnitude, initial_potential, timesteps: see :class:`MagnitudePart`; the magnitude is a power of two.
    """

    kind: Literal["multi_threshold"] = "multi_threshold"
    builds = MultiThreshold
    magnitude: Magnitude = 4

    @field_validator("magnitude")
    @classmethod
    def _is_a_power_of_two(cls, magnitude: int) -> int:
        MultiThreshold.letters(magnitude)
        return magnitude


class BurstNeuron(MagnitudePart):
    """Up to ``magnitude`` spikes in a step at every site; see :class:`rheobase.neurons.Burst`.

    Args:
        magnitude, initial_potential, timesteps: see :class:`MagnitudePart`.
    """

    kind: Literal["burst"] = "burst"
    builds = Burst
    magnitude: Magnitude = 2


class GroupNeuron(MembranePart):
    """Group neurons at every site: τ members with the thresholds iθ/τ and a common potential (Lv et al. 2024).

    A group emits as many spikes as members reach their thresholds, so it is a :class:`rheobase.neurons.Burst` of
    magnitude τ, whose threshold is that of the first member.

    Args:
        members: τ.
        initial_potential, timesteps: see :class:`MembranePart`; V0 in units of the first member's threshold.
    """

    kind: Literal["group"] = "group"
    builds = Burst
    members: Magnitude = 4

    def options(self, site: Site) -> dict[str, Any]:
        """The members as the magnitude."""
        return {"magnitude": self.members}


class PascNeuron(NeuronPart):
    """The spike-counting neuron of PASCAL, with the trained θ and levels of the site."""

    kind: Literal["pasc"] = "pasc"
    builds = Pasc

    def build(self, site: Site, graph: Graph) -> Neuron:
        """Build the neurons of a site."""
        threshold, levels = trained(site, graph)
        return Pasc(threshold, levels, site.rounding)


class ConstantCurrentNeuron(NeuronPart):
    """Integrate-and-fire driven by the time-mean of its current, with the trained θ of the site.

    Args:
        initial_potential: V0/θ; default: the value that matches the rounding of the activation.
        timesteps: T of every site, or by site name; default: the levels that the site was trained with.
    """

    kind: Literal["constant_current"] = "constant_current"
    builds = ConstantCurrent
    initial_potential: float | None = Field(default=None, ge=0, le=1)
    timesteps: BySite | None = None

    def build(self, site: Site, graph: Graph) -> Neuron:
        """Build the neurons of a site."""
        threshold, levels = trained(site, graph)
        steps = steps_of_site(self.timesteps, site, graph) or levels
        return ConstantCurrent(threshold, steps, site.rounding, self.initial_potential)


class ParallelNeuron(NeuronPart):
    """Parallel integrate-and-fire at every site: all spikes computed at once from the time-mean of the current.

    Args:
        timesteps: T.
        initial_potential: ψ/θ; ½ rounds to nearest.
        order: the spikes are the last ones of the T steps, as in DA calibration, or the first, as in FS-PC's code.
    """

    kind: Literal["parallel"] = "parallel"
    builds = ParallelIF
    timesteps: Levels
    initial_potential: float = Field(default=0.5, ge=0, le=1)
    order: Order = "last"

    def build(self, site: Site, graph: Graph) -> ParallelIF:
        """Build the neurons of a site, with θ = 1 until a pass sets it."""
        return ParallelIF(torch.tensor(1.0), self.timesteps, self.initial_potential, order=self.order)


class ProbabilisticNeuron(NeuronPart):
    """Temporally probabilistic neurons at every site (TPP); see :class:`rheobase.neurons.Probabilistic`.

    Args:
        timesteps: T.
        seed: of all random numbers; each site has its own.
    """

    kind: Literal["probabilistic"] = "probabilistic"
    builds = Probabilistic
    timesteps: Levels
    seed: Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]

    def build(self, site: Site, graph: Graph) -> Probabilistic:
        """Build the neurons of a site, with θ = 1 until a pass sets it."""
        return Probabilistic(torch.tensor(1.0), self.timesteps, derive(self.seed, site.name))


class TemporalSwitchNeuron(NeuronPart):
    """Temporal-switch coding of the image (TSC); see :class:`rheobase.neurons.TemporalSwitch`.

    Args:
        timesteps: T.
    """

    kind: Literal["temporal_switch"] = "temporal_switch"
    builds = TemporalSwitch
    timesteps: Levels

    def build(self, site: Site, graph: Graph) -> TemporalSwitch:
        """Build the neurons, with θ = 1 until a pass sets it; refuse a site whose input changes with time."""
        if site.previous:
            raise RecipeError(
                "reads spikes, but temporal-switch coding is for values that do not change with time",
                where=site.name,
                remedy="use it as the coding of a recipe, such as rb.TSC()",
            )
        return TemporalSwitch(torch.tensor(1.0), self.timesteps)


NEURON_PARTS: dict[str, type[NeuronPart]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        IntegrateFireNeuron,
        GradedNeuron,
        SignedNeuron,
        MultiThresholdNeuron,
        BurstNeuron,
        GroupNeuron,
        PascNeuron,
        ConstantCurrentNeuron,
        ParallelNeuron,
        ProbabilisticNeuron,
        TemporalSwitchNeuron,
    )
}
"""Neurons that a recipe can name, by kind; :func:`rheobase.register` adds one."""


def trained(site: Site, graph: Graph) -> tuple[Tensor, int]:
    """(θ, L) of a site; refuse a site whose activation is not quantised."""
    (node,) = (node for node in graph.sites if node.name == site.name)
    if site.lower < 0:
        raise RecipeError(
            "is a linear output without levels, which this method needs",
            where=site.name,
            remedy='use sites="activations", or a method that needs no levels, such as rb.Graded',
        )
    if node.attributes["activation"] != "staircase":
        raise RecipeError(
            "is not a quantised activation, which this method needs",
            where=site.name,
            remedy="quantise and train the network first: rb.quantise(net, recipe, calibration=...), rb.train(...)",
        )
    return graph.tensor(node.parameters["threshold"]).clone(), int(node.attributes["levels"])


def steps_of_site(timesteps: int | Mapping[str, int] | None, site: Site, graph: Graph) -> int | None:
    """T of a site, from one T for all sites or T by site name."""
    if timesteps is None:
        return None
    return for_each_site(timesteps, [node.name for node in graph.sites], "timesteps")[site.name]


def for_each_site(values: int | Mapping[str, int], names: Sequence[str], what: str) -> dict[str, int]:
    """The whole number of every site, in execution order; refuse missing and unknown sites."""
    if isinstance(values, int):
        return dict.fromkeys(names, values)
    wrong = [f"no {what} for {name}" for name in names if name not in values]
    wrong += [f"{name} is not a site" for name in values if name not in names]
    if wrong:
        raise RecipeError("; ".join(wrong[:5]), where=what, remedy=f"the sites are {', '.join(names)}")
    return {name: values[name] for name in names}
