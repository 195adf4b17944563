"""The spiking network: a graph with neurons at its sites, and how it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from rheobase.core.checks import check_choice, check_whole
from rheobase.core.errors import ModelError, RecipeError
from rheobase.core.memory import in_pieces
from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import Schedule, overwriting, run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.rewrites.alignment import aligned
from rheobase.graph.sites import site_table, split_at_sites
from rheobase.network.checks import check_input
from rheobase.network.protocol import Protocol
from rheobase.network.simulation import Monitor, Simulation
from rheobase.neurons import Neuron
from rheobase.neurons.response import Alphabet
from rheobase.signals.alignment import Alignment
from rheobase.signals.signal import Constant, MeanSpikes, Signal, TimeSeries, prefix_means
from rheobase.tasks import TASKS, Task, task_for

DEFAULT_MEMORY_BUDGET = 2**30
MAX_TIMESTEPS = 2**16
"""Upper limit of T, to catch typing errors. Rate coding reaches its final accuracy within a few thousand steps."""
ROWS_IN_FLIGHT = 128
"""Images × steps in a sub-batch on a CPU: enough to keep two cores busy, few enough for the caches (measured)."""

Execution = Literal["steps", "counts"]
"""The simulation of every time-step, or the closed form on time-means."""


@dataclass
class Provenance:
    """How a network was converted: seed, versions, calibration data, notes, a record of each pass, and ``sites``.

    ``task`` is the name of the task that was given or inferred from labels; None if neither.
    """

    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    passes: list[dict[str, Any]] = field(default_factory=list)
    sites: str = "activations"
    task: str | None = None


class SpikingNetwork(nn.Module):
    """A spiking network, returned by :func:`rheobase.convert` and :func:`rheobase.load`.

    The image is the input at every step (direct coding), every site is a layer of neurons, and the logits are the
    time-mean of the readout. The affine operations before the first site and the readout are computed once.

    Attributes:
        graph: affine segments between sites, with the weights of the spiking network.
        ann: the analog network it was converted from, with batch normalisation folded.
        neurons: one layer of neurons for each site, in execution order.
        sites: the site table.
        nodes: the nodes up to the last sites, in execution order, with those that align spike trains.
        between: the nodes from the first sites to the last ones.
        reads_means: True if every site waits and counts from the time-mean of its current.
        overwriting: the nodes that may write over their first input.
        timesteps: T it was converted for; the largest T of a site where sites differ.
        alignment: how a spike train is aligned to a site with another T.
        protocol: the phases in which every site runs; None: one phase of T steps.
        recipe: the recipe it was converted by, as plain values.
        memory_budget: bytes that live signals may use; larger batches are computed in sub-batches.
        execution: ``"steps"``, the simulation; ``"counts"``, the closed form; ``"auto"``, the closed form where every
            site has one: the same logits at the analog network's cost.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(8, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20().eval(), rb.RateCoding(timesteps=4), calibration=images)
        >>> snn(images).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        graph: Graph,
        ann: Graph,
        neurons: Sequence[Neuron],
        timesteps: int,
        recipe: Mapping[str, Any],
        provenance: Provenance | None = None,
        alignment: Alignment | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        super().__init__()
        self.graph, self.ann, self.neurons = graph, ann, nn.ModuleList(neurons)
        self.timesteps, self.alignment, self.protocol = timesteps, alignment or Alignment(), protocol
        self.recipe, self.provenance = dict(recipe), provenance or Provenance()
        self.memory_budget = DEFAULT_MEMORY_BUDGET
        self.execution = "auto"
        self.plan()
        self.eval()

    @property
    def task(self) -> Task:
        """What the outputs are for: the task of the conversion, or by default that of the shape of the outputs.

        Several outputs together are numbers, which have a relative error and no decision.
        """
        if self.ann.structure is not None:
            return TASKS["regression"]
        return task_for(self.provenance.task, self.ann.output_shape, None, "network")

    @property
    def execution(self) -> Execution | Literal["auto"]:
        """``"steps"``, ``"counts"`` or ``"auto"``; any other value raises a RecipeError."""
        return self._execution

    @execution.setter
    def execution(self, wanted: Execution | Literal["auto"]) -> None:
        check_choice(wanted, (*get_args(Execution), "auto"), "execution")
        self._execution = wanted

    def plan(self) -> None:
        """Derive the order of execution from ``graph``; call it after replacing ``graph``."""
        self.sites = site_table(self.graph)
        if len(self.sites) != len(self.neurons):
            reason = f"has {len(self.neurons)} layers of neurons for {len(self.sites)} sites"
            raise RecipeError(reason, where="network", remedy="give one layer of neurons for each site")
        if self.protocol is not None:
            for site, neuron in zip(self.sites, self.neurons, strict=True):
                self.protocol.check(cast(Neuron, neuron), site.name)
        self._index = {site.name: site.index for site in self.sites}
        site_steps = {site.name: self.steps_of(site.name) for site in self.sites}
        waiting = {site.name for site in self.sites if self.waits(site.name)}
        self.streams = not waiting and len(set(site_steps.values())) == 1
        self.reads_means = self.protocol is None and not any(self.neuron(name).streams for name in site_steps)
        before, between, readout = split_at_sites(self.graph)
        read = {name for node in readout for name in node.inputs} or {self.graph.output}
        self.readout_inputs = sorted(read - {node.name for node in readout})
        if len(set(site_steps.values())) > 1 and len(waiting) < len(site_steps):
            between = aligned(between, site_steps, waiting, keep=self.readout_inputs)
        self.nodes = (*before, *between)
        kept = {*self.readout_inputs, *(node.name for node in before)}
        self._early = schedule(before[1:], keep={name for node in (*between, *readout) for name in node.inputs})
        self.between = schedule(between, keep=kept)
        self.readout_nodes = tuple(readout)
        self._late = schedule(readout, keep={self.graph.output})
        self.overwriting = overwriting((*self.nodes, *readout), keep={*kept, self.graph.output})
        self._constant_floats, self._step_floats = self._peak_floats()

    # -- running ---------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor, timesteps: int | None = None) -> Any:
        """Logits [B, ...]: time-mean of the readout over ``timesteps`` steps (default: T it was converted for).

        A network converted with ``output="all"`` returns its outputs in the structure of the analog network's; a
        dataclass or named tuple becomes a dict.

        Raises a DataError for images that do not fit, and a RecipeError if a site cannot run for ``timesteps`` steps.
        """
        return self.graph.unpack(self.logits(images, timesteps))

    def logits(self, images: Tensor, timesteps: int | None = None) -> Tensor:
        """Logits [B, ...] as one tensor: several outputs are flattened and joined, [B, F] (:meth:`Graph.unpack`)."""
        return self.readouts(images, (self.timesteps if timesteps is None else timesteps,))[0]

    def select(self, output: str | int | None = None) -> SpikingNetwork:
        """The network with one output of several, such as ``snn.select("aux")``; ``self`` if it has only one.

        Neurons and weights are shared. Measurements of accuracy use ``select()``: the output named "logits" or "out".

        Raises a TraceError if the network has no such output, or several and none is chosen.
        """
        if self.graph.structure is None and output is None:
            return self
        return self.with_graphs(self.graph.select(output), self.ann.select(output))

    def with_graphs(self, graph: Graph, ann: Graph) -> SpikingNetwork:
        """The network with other graphs, whose sites are some of its own; neurons and weights are shared."""
        neurons = [self.neuron(node.name) for node in graph.sites]
        found = SpikingNetwork(
            graph, ann, neurons, self.timesteps, self.recipe, self.provenance, self.alignment, self.protocol
        )
        found.execution, found.memory_budget = self.execution, self.memory_budget
        return found

    @torch.no_grad()
    def readouts(self, images: Tensor, timesteps: Sequence[int], monitor: Monitor | None = None) -> Tensor:
        """Logits after each T of ``timesteps``, [R, B, ...]; a streaming network is simulated once, for the largest T.

        Several outputs are flattened and joined, [R, B, F] (:meth:`Graph.unpack`).

        Args:
            images: [B, ...], the input at every step.
            timesteps: R numbers of steps, each >= 1.
            monitor: called for every site and sub-batch with the site's output.
        """
        images = self.check_images(images)
        wanted = self.step_counts(timesteps)
        if self.execution_mode == "counts":
            return torch.stack([self._count(images, t, monitor) for t in wanted])
        size = self.sub_batch_size(max(wanted))

        def run(network: SpikingNetwork, piece: Tensor, tell: Monitor | None) -> Tensor:
            return network._simulate(piece, wanted, tell)

        return in_pieces(run, self, images, size, monitor, dim=1)

    @torch.no_grad()
    def stream(self, images: Tensor, timesteps: int | None = None) -> Iterator[tuple[int, Any]]:
        """Run step by step and yield (t, logits after t steps), t from 1.

        If the network does not stream, the whole simulation runs before the first yield, and t counts the steps of the
        last sites.

        Example:
            >>> for t, logits in snn.stream(images):  # doctest: +SKIP
            ...     print(t, logits.argmax(1))
        """
        images = self.check_images(images)
        steps = self.timesteps if timesteps is None else timesteps
        self.check_timesteps(steps)
        if not self.streams:
            values = self.begin(images)
            run(self.graph, self.between, values, Simulation(self).advance(steps))
            read = {name: values[name] for name in self.readout_inputs}
            last = max((signal.steps for signal in read.values() if isinstance(signal, TimeSeries)), default=1)
            for t in range(1, last + 1):
                yield t, self.graph.unpack(self.partial_logits(read, t))
            return
        simulation, early = Simulation(self, overwrite=True), self.begin(images)
        totals: dict[str, Tensor] = {}
        for t in range(1, steps + 1):
            values = dict(early)
            run(self.graph, self.between, values, simulation.advance(1), self.overwriting)
            for name in self.readout_inputs:
                value = values[name].mean()
                totals[name] = totals[name] + value if name in totals else value.clone()
            yield t, self.graph.unpack(self.logits_from_sums(totals, t))

    def _count(self, images: Tensor, timesteps: int, monitor: Monitor | None) -> Tensor:
        """Logits in closed form: every site's time-mean output from the time-mean of its current."""

        def run(network: SpikingNetwork, piece: Tensor, tell: Monitor | None) -> Tensor:
            return network.graph.on_means(piece, partial(network._emit, timesteps=timesteps, monitor=tell))

        return in_pieces(run, self, images, self.sub_batch_size(1), monitor)

    def _emit(self, node: Node, current: Tensor, overwrite: bool, timesteps: int, monitor: Monitor | None) -> Tensor:
        """The time-mean output of a site for the time-mean of its current."""
        site = self.sites[self._index[node.name]]
        neuron, steps = self.neuron(site.name), self.steps_of(site.name, timesteps)
        if monitor is not None and not neuron.alphabet.binary:  # events depend on how spikes are spread over steps
            monitor(site, neuron.spike_train(Constant(current), steps))
        rate = neuron.rate(current, steps, overwrite=overwrite)
        if monitor is not None and neuron.alphabet.binary:
            monitor(site, MeanSpikes(rate, neuron.amplitude, steps))
        return rate

    def _simulate(self, images: Tensor, timesteps: tuple[int, ...], monitor: Monitor | None) -> Tensor:
        logits = []
        # a network that does not stream gives other logits for T = t than a longer run does after t steps
        for wanted in [timesteps] if self.streams else [(t,) for t in timesteps]:
            values, simulation = self.begin(images), Simulation(self, monitor, overwrite=True)
            run(self.graph, self.between, values, simulation.advance(max(wanted)), self.overwriting)
            logits.append(self.logits_after(values, wanted))
        return torch.cat(logits)

    @property
    def execution_mode(self) -> Execution:
        """``"steps"`` or ``"counts"``; a RecipeError if ``execution`` is ``"counts"`` and a site has no closed form."""
        if self.execution == "counts":
            for site in self.sites:
                self.check_closed_form(site.name, 'use execution="steps" or "auto"')
        closed = self.protocol is None and all(self.neuron(site.name).closed_form for site in self.sites)
        return "counts" if closed and self.execution != "steps" else "steps"

    def check_closed_form(self, site: str, remedy: str) -> None:
        """Raise a RecipeError with this remedy if the time-mean of a site's current does not determine its output."""
        neuron = self.neuron(site)
        if not neuron.closed_form or self.protocol is not None:
            reason = f"has {type(neuron).__name__} neurons, whose spike count depends on when their input arrives"
            raise RecipeError(reason, where=site, remedy=remedy)

    def waits(self, site: str) -> bool:
        """True if a site needs its whole input before it emits its first step."""
        return self.protocol is not None or not self.neuron(site).streams

    def internal_steps(self, site: str, before: int | None, steps: int) -> int:
        """Steps between a site's last input and its first output; see :meth:`Neuron.internal_steps`."""
        if self.protocol is not None:
            return self.protocol.internal_steps(steps)
        return self.neuron(site).internal_steps(before, steps)

    def neuron_work(self, site: str, before: int | None, steps: int) -> tuple[int, int]:
        """Additions and comparisons of one neuron of a site for one image, as the neuron counts them."""
        neuron = self.neuron(site)
        worked = steps if self.protocol is None else steps + self.protocol.internal_steps(steps)
        return neuron.updates(before, worked), neuron.comparisons(before, worked)

    def steps_of(self, site: str, timesteps: int | None = None) -> int:
        """T of a site when the network runs for ``timesteps`` steps (default: T it was converted for)."""
        return self.neuron(site).steps(self.timesteps if timesteps is None else timesteps, self.timesteps)

    def mean_steps(self, timesteps: int | None = None) -> float:
        """Mean T of all sites when the network runs for ``timesteps`` steps: T of a mixed network in the papers."""
        return sum(self.steps_of(site.name, timesteps) for site in self.sites) / len(self.sites)

    def at_input(self, images: Tensor) -> Tensor:
        """The values of the input node for images [B, ...]: the images themselves."""
        return images

    def begin(self, images: Tensor) -> dict[str, Signal]:
        """Signals that the nodes in ``between`` read, from images in memory format."""
        values: dict[str, Signal] = {self.graph.nodes[0].name: Constant(self.at_input(images))}
        run(self.graph, self._early, values, self.graph.analog)
        return values

    def logits_after(self, values: dict[str, Signal], timesteps: tuple[int, ...]) -> Tensor:
        """Logits after each T of ``timesteps``, [R, B, ...], from the signals that the readout reads.

        If the network does not stream, R = 1: each signal enters with its mean over all steps.
        """
        if not self.streams:
            return self.mean_logits(values).unsqueeze(0)
        means = {name: prefix_means(values[name], timesteps) for name in self.readout_inputs}
        batch = next(iter(means.values())).shape[1]
        logits = self._finish({name: mean.flatten(0, 1) for name, mean in means.items()})
        return logits.unflatten(0, (len(timesteps), batch))

    def mean_logits(self, values: dict[str, Signal]) -> Tensor:
        """Logits [B, ...] after all steps; differentiable."""
        return self._finish({name: values[name].mean() for name in self.readout_inputs})

    def partial_logits(self, values: Mapping[str, Signal], t: int) -> Tensor:
        """Logits [B, ...] of the first t steps of the signals that the readout reads."""
        return self._finish({name: _mean_after(values[name], t) for name in self.readout_inputs})

    def logits_from_sums(self, sums: Mapping[str, Tensor], t: int) -> Tensor:
        """Logits [B, ...] from the sums over t steps of the signals that the readout reads."""
        return self._finish({name: total / t for name, total in sums.items()})

    def _finish(self, means: dict[str, Tensor]) -> Tensor:
        values: dict[str, Signal] = {name: Constant(mean) for name, mean in means.items()}
        run(self.graph, self._late, values, self.graph.analog)
        return values[self.graph.output].mean()

    def neuron(self, site: str) -> Neuron:
        """The neurons of a site, by its name."""
        return cast(Neuron, self.neurons[self._index[site]])

    @property
    def alphabet(self) -> Alphabet:
        """The numbers of spikes that a neuron may emit in one step: the union over all sites."""
        return Alphabet.union(self.neuron(site.name).alphabet for site in self.sites)

    # -- checks and sizes ------------------------------------------------------------------------------------------

    def check_images(self, images: Tensor) -> Tensor:
        """Check images (:func:`check_input`) and move them to the network's device and memory format."""
        check_input(self.graph, images)
        return in_memory_format(images.to(self.graph.device))

    def check_timesteps(self, timesteps: int) -> None:
        """Raise a RecipeError if T is not from 1 to ``MAX_TIMESTEPS``, or a site cannot run for it."""
        check_whole(timesteps, "timesteps", most=MAX_TIMESTEPS)
        for site in self.sites:
            neuron = self.neuron(site.name)
            if problem := neuron.check_timesteps(timesteps, self.timesteps):
                name = str(self.recipe.get("name", "Recipe"))
                again = f"calibrate again: rb.convert(network, rb.{name}(timesteps={timesteps}), calibration=...)"
                if neuron.timesteps is not None and neuron.trained_timesteps:
                    again = "quantise and train it again with other levels"
                remedy = f"run it for {self.timesteps}, or {again}"
                raise RecipeError(f"cannot run for {timesteps} steps: {problem}", where=site.name, remedy=remedy)

    def step_counts(self, timesteps: Sequence[int]) -> tuple[int, ...]:
        """Several numbers of steps as a tuple; a RecipeError if there is none, or a site cannot run for one of them."""
        if not isinstance(timesteps, Iterable):
            raise RecipeError(f"is {timesteps!r}, not a list", where="timesteps", remedy="pass a list, such as [4, 8]")
        if not (wanted := tuple(timesteps)):
            raise RecipeError("is empty", where="timesteps", remedy="give at least one number of time-steps")
        for t in wanted:
            self.check_timesteps(t)
        return wanted

    def runs_for(self, timesteps: int) -> bool:
        """True if every site can run when the network runs for ``timesteps`` steps."""
        return all(self.neuron(site.name).check_timesteps(timesteps, self.timesteps) is None for site in self.sites)

    def sub_batch_size(self, timesteps: int) -> int:
        """Number of images in a sub-batch; the logits of an image do not depend on it."""
        most = self.images_in_budget(timesteps)
        return most if self.graph.device.type != "cpu" else min(most, -(-ROWS_IN_FLIGHT // timesteps))

    def images_in_budget(self, timesteps: int) -> int:
        """Number of images whose live signals fit into the memory budget; at least 1."""
        return max(1, self.memory_budget // (4 * (self._constant_floats + timesteps * self._step_floats)))

    def _peak_floats(self) -> tuple[int, int]:
        """Largest number of live floats for one image: (constants, floats of one time-step)."""
        nodes = (*self.graph.nodes, *self.nodes)  # the graph lacks the alignment nodes
        sizes = {node.name: max(1, math.prod(node.shape)) for node in nodes}
        constants = _peak(self._early, sizes, {self.graph.nodes[0].name})
        return constants + max(sizes.values()), max(1, _peak(self.between, sizes, set()))


def check_converted(network: object) -> None:
    """Raise a ModelError for any object but a spiking network."""
    if not isinstance(network, SpikingNetwork):
        reason = f"is of type {type(network).__name__}, not a SpikingNetwork"
        remedy = "convert it first: rb.convert(network, recipe, calibration=...), or load a saved one with rb.load"
        raise ModelError.typed(reason, where="network", remedy=remedy)


def _mean_after(signal: Signal, t: int) -> Tensor:
    return prefix_means(signal, (min(t, signal.steps) if isinstance(signal, TimeSeries) else t,))[0]


def _peak(plan: Schedule, sizes: Mapping[str, int], live: set[str]) -> int:
    """Largest number of live floats while a plan runs; both the currents and the spikes of a neuron are counted."""
    peak = sum(sizes[name] for name in live)
    for node, released in plan:
        live = live | {node.name}
        peak = max(peak, sum(sizes[name] for name in live))
        live -= set(released)
    return peak
