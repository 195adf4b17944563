"""A spiking network on whole numbers: weights, biases, thresholds and potentials of a chip's widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.core.memory import in_pieces
from rheobase.core.values import Value
from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.graph.sites import Site
from rheobase.network.checks import check_input
from rheobase.network.simulation import Monitor, Simulation
from rheobase.network.spiking_network import Provenance, SpikingNetwork
from rheobase.network.target import Target
from rheobase.neurons import Neuron
from rheobase.neurons.integer import IntegerCount, IntegerFire, IntegerNeuron, check_whole_numbers
from rheobase.signals.signal import Constant, MeanSpikes, Signal, TimeSeries

PIXELS = 255
"""The largest pixel."""
OUTPUT = "output of the network"
"""Key of the output next to the names of nodes, one of which may be the output."""


class Units(Value):
    """What the whole numbers of a network stand for.

    Args:
        target: the widths.
        pixel: the value of one pixel unit, for all channels or for each.
        zero: the pixel that stands for 0, likewise.
        fraction: what is missing to it, if no whole pixel stands for 0, likewise.
        logit: the value of one unit of the logits, summed over the steps.
    """

    target: Target
    pixel: tuple[float, ...] = Field(min_length=1)
    zero: tuple[int, ...] = Field(min_length=1)
    fraction: tuple[float, ...] = Field(min_length=1)
    logit: float = Field(gt=0)


class IntegerNetwork(SpikingNetwork):
    """A spiking network whose weights, biases, thresholds, potentials and spikes are whole numbers.

    Made by :func:`rheobase.integers`. Images become pixels from 0 to 255, less the pixel that stands for 0. Every sum
    is a sum of whole numbers, which the dtype of its tensors holds exactly (below 2^24 in float32, below 2^53 in
    float64): it is the same in any order, on any machine, step by step and in closed form. The logits are whole numbers
    too, summed over the steps, and multiplied by their unit at the end.

    Attributes:
        units: what the whole numbers stand for, and the target whose widths they have.
        unrounded: the same graph before weights and biases were rounded, for :func:`rheobase.diagnose`.
    """

    def __init__(
        self,
        graph: Graph,
        ann: Graph,
        neurons: Sequence[Neuron],
        timesteps: int,
        recipe: Mapping[str, Any],
        provenance: Provenance | None = None,
        *,
        units: Units,
        unrounded: Graph,
    ) -> None:
        self.units = units
        for node in graph.nodes:
            for argument, name in node.parameters.items():
                check_whole_numbers(graph.tensor(name), f"{node.name}.{argument}")
        super().__init__(graph, ann, neurons, timesteps, recipe, provenance)
        self.unrounded = unrounded
        for site in self.sites:
            if not isinstance(self.neuron(site.name), IntegerNeuron):
                kind = type(self.neuron(site.name)).__name__
                raise RecipeError(f"has {kind} neurons", where=site.name, remedy="make the network with rb.integers")

    def with_graphs(self, graph: Graph, ann: Graph) -> IntegerNetwork:
        """The network with other graphs, whose sites are some of its own; neurons and weights are shared."""
        neurons = [self.neuron(node.name) for node in graph.sites]
        unrounded = self.unrounded.replace(nodes=graph.nodes, output=graph.output)
        made = (graph, ann, neurons, self.timesteps, self.recipe, self.provenance)
        found = IntegerNetwork(*made, units=self.units, unrounded=unrounded)
        found.execution, found.memory_budget = self.execution, self.memory_budget
        return found

    def plan(self) -> None:
        """Derive the order of execution from ``graph``."""
        super().plan()
        self._at_zero: dict[str, Tensor] | None = None

    def _apply(self, fn: Any, recurse: bool = True) -> IntegerNetwork:
        """Move or cast all tensors; the biases of one step are then computed again."""
        self._at_zero = None
        return super()._apply(fn, recurse)

    @property
    def overflows(self) -> int:
        """Number of potentials beyond their width, in all runs since they were set to 0."""
        return sum(neuron.overflows for neuron in self.neurons if isinstance(neuron, IntegerFire))

    @overflows.setter
    def overflows(self, count: int) -> None:
        for neuron in self.neurons:
            if isinstance(neuron, IntegerFire):
                neuron.overflows = count

    # -- running ---------------------------------------------------------------------------------------------------

    def check_images(self, images: Tensor) -> Tensor:
        """Check images; pixels (uint8) become the values that they stand for."""
        if images.dtype == torch.uint8:
            unit, zero, fraction = self._pixels(images.dim())
            images = ((images.to(self.graph.device) - zero - fraction) * unit).to(self.ann.dtype)
        check_input(self.ann, images)
        return images.to(self.graph.device)

    def pixels(self, images: Tensor) -> Tensor:
        """Images as whole numbers, -zero to 255 - zero, in the dtype of the weights."""
        unit, zero, fraction = self._pixels(images.dim())
        return (images.double() / unit + fraction).round().clamp(-zero, PIXELS - zero).to(self.graph.dtype)

    def _pixels(self, dims: int) -> list[Tensor]:
        shape = (-1,) + (1,) * (dims - 2)
        given = self.units.pixel, self.units.zero, self.units.fraction
        return [torch.tensor(one, dtype=torch.float64, device=self.graph.device).reshape(shape) for one in given]

    def at_input(self, images: Tensor) -> Tensor:
        """Pixels."""
        return self.pixels(images)

    def logits_after(self, values: dict[str, Signal], timesteps: tuple[int, ...]) -> Tensor:
        """Logits after each T of ``timesteps``, [R, B, ...]."""
        return torch.stack([self.partial_logits(values, t) for t in timesteps])

    def mean_logits(self, values: dict[str, Signal]) -> Tensor:
        """Logits [B, ...] after all steps."""
        return self.partial_logits(values, self.timesteps)

    def partial_logits(self, values: Mapping[str, Signal], t: int) -> Tensor:
        """Logits [B, ...] of the first t steps."""
        return self.logits_from_sums({name: _sum(values[name], t) for name in self.readout_inputs}, t)

    def logits_from_sums(self, sums: Mapping[str, Tensor], t: int) -> Tensor:
        """Logits [B, ...] from the sums over t steps of the signals that the readout reads."""
        return self._in_units(self._summed(sums, t), t)

    def _in_units(self, total: Tensor, t: int) -> Tensor:
        """Logits from whole numbers that are summed over t steps."""
        return (total.double() * (self.units.logit / t)).to(self.ann.dtype)

    def _summed(self, sums: Mapping[str, Tensor], t: int) -> Tensor:
        """The readout of sums is W Σ + b; the bias of the other steps is added."""
        values: dict[str, Signal] = {name: Constant(total) for name, total in sums.items()}
        run(self.graph, self._late, values, lambda node, signal: Constant(self._look_up(node, signal.mean(), t)))
        return values[self.graph.output].mean() + (t - 1) * self.at_zero[OUTPUT]

    @torch.no_grad()
    def record(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Simulate, and return all whole numbers: the spikes of every site, and the logits summed over the steps.

        Args:
            images: [B, ...], the input at every step.

        Returns:
            Spikes by the name of the site, [T, B, C, ...], int8 (int16 for larger alphabets), and the logits in units
            of ``units.logit / T``, [B, ...], int64.
        """
        trains: dict[str, list[Tensor]] = {site.name: [] for site in self.sites}
        logits = []

        def keep(site: Site, spikes: Signal) -> None:
            small = self.neuron(site.name).alphabet.magnitude < 2**7
            trains[site.name].append(spikes.values.to(torch.int8 if small else torch.int16).cpu())

        for batch in self.check_images(images).split(self.sub_batch_size(self.timesteps)):
            values = self.begin(batch)
            run(self.graph, self.between, values, Simulation(self, keep).advance(self.timesteps))
            sums = {name: _sum(values[name], self.timesteps) for name in self.readout_inputs}
            logits.append(self._summed(sums, self.timesteps).long().cpu())
        return {name: torch.cat(parts, 1) for name, parts in trains.items()}, torch.cat(logits)

    @property
    def at_zero(self) -> dict[str, Tensor]:
        """The biases of one step: the input of every site and lookup, and the output, where these give 0."""
        if self._at_zero is None:
            self._at_zero = self._zeros()
        return self._at_zero

    def _zeros(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def silent(node: Node, current: Tensor, overwrite: bool = False) -> Tensor:
            found[node.name] = current.clone()
            return torch.zeros_like(current)

        nothing = torch.zeros(1, *self.graph.input_shape, dtype=self.graph.dtype, device=self.graph.device)
        found[OUTPUT] = self.graph.on_means(nothing, silent, silent)
        return found

    def _count(self, images: Tensor, timesteps: int, monitor: Monitor | None) -> Tensor:
        """Logits in closed form: every site's spike count from the sum of its current."""

        def run(network: IntegerNetwork, piece: Tensor, tell: Monitor | None) -> Tensor:
            emit = partial(network._emit, timesteps=timesteps, monitor=tell)
            look_up = partial(network._look_up, steps=timesteps)
            total = network.graph.on_means(timesteps * network.pixels(piece), emit, look_up)
            return network._in_units(total + (timesteps - 1) * network.at_zero[OUTPUT], timesteps)

        return in_pieces(run, self, images, self.sub_batch_size(1), monitor)

    def _look_up(self, node: Node, total: Tensor, steps: int) -> Tensor:
        """The output of a lookup, summed over all steps; the biases of the other steps are added to its input."""
        return steps * self.graph.look_up(node, total + (steps - 1) * self.at_zero[node.name], steps)

    def _emit(self, node: Node, current: Tensor, overwrite: bool, timesteps: int, monitor: Monitor | None) -> Tensor:
        site = self.sites[self._index[node.name]]
        neuron = self.neuron(site.name)
        assert isinstance(neuron, IntegerCount)
        count = neuron.count(current + (timesteps - 1) * self.at_zero[node.name])
        if monitor is not None and neuron.alphabet.binary:
            monitor(site, MeanSpikes(count / timesteps, neuron.amplitude, timesteps))
        elif monitor is not None:
            monitor(site, neuron.spread(count, timesteps))
        return count


def _sum(signal: Signal, t: int) -> Tensor:
    """The sum over the first t steps, [B, ...]."""
    return signal.values[:t].sum(0) if isinstance(signal, TimeSeries) else t * signal.values
