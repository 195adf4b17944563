"""The simulation: the state of every neuron and max-pool gate, advanced over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, OnNumbers
from rheobase.graph.operations.lookup import Lookup
from rheobase.graph.rewrites.alignment import OPERATION as ALIGN
from rheobase.graph.sites import Site
from rheobase.neurons import Neuron, State
from rheobase.signals.signal import Averaged, Constant, Signal, SpikeTrain, TimeSeries, lift, step_by_step

if TYPE_CHECKING:
    from rheobase.network.spiking_network import SpikingNetwork

Monitor = Callable[[Site, Signal], None]
"""Called for every site and sub-batch with the site's output: a SpikeTrain [T, B, C, ...], or in closed form its
time-mean, MeanSpikes [B, C, ...]."""


class Simulation:
    """The state of every neuron and max-pool gate for one sub-batch, and the number of steps it has run.

    ``monitor`` is called for every site with its output. With ``overwrite``, spikes may be written over currents that
    no other node reads.
    """

    def __init__(self, network: SpikingNetwork, monitor: Monitor | None = None, *, overwrite: bool = False) -> None:
        self.network, self.monitor = network, monitor
        self.overwriting = network.overwriting if overwrite else frozenset()
        self.states: dict[str, State] = {}
        self.done = self.steps = 0

    def advance(self, steps: int) -> Callable[..., Signal]:
        """Begin the next ``steps`` steps; returns the function that evaluates non-linear nodes, :meth:`fire`."""
        self.done += self.steps
        self.steps = steps
        return self.fire

    def before(self, node: Node, signal: Signal) -> tuple[Tensor, State]:
        """The current [B, C, ...] of a site at the next step, and the state of its neurons before it."""
        current = signal.values if isinstance(signal, Constant) else signal.values[0]
        if node.name not in self.states:
            self.states[node.name] = self.network.neuron(node.name).init(current.shape, current)
        return current, self.states[node.name]

    def fire(self, node: Node, *signals: Signal) -> Signal:
        """The output of a node over these steps: a site, a max-pool gate, an alignment, or one on numbers."""
        if node.operation == Lookup.name:
            return self.look_up(node, *signals)
        if isinstance(OPERATIONS.get(node.operation), OnNumbers):
            return self.differences(node, *signals)
        (signal,) = (TimeSeries(s.values) if isinstance(s, Averaged) else s for s in signals)
        if node.operation == "max_pool":
            return self.gate(node, signal)
        if node.operation == ALIGN:
            return self.network.alignment.align(signal, self.steps_of(node.attributes["site"]))
        spikes = self.emit(node, self.network.neuron(node.name), signal)
        if self.monitor is not None:
            self.monitor(self.network.sites[self.network._index[node.name]], spikes)
        return spikes

    def steps_of(self, site: str) -> int:
        """T of a site while the network runs these steps."""
        return self.network.steps_of(site, self.steps)

    def emit(self, node: Node, neuron: Neuron, signal: Signal) -> SpikeTrain:
        """The spikes of a site's neurons over these steps."""
        steps = self.steps_of(node.name)
        if self.network.protocol is not None:
            return self.network.protocol.emit(neuron, signal, steps)
        if not neuron.streams:
            return neuron.spike_train(signal, steps)
        _, state = self.before(node, signal)
        overwrite = isinstance(signal, TimeSeries) and node.name in self.overwriting
        values, self.states[node.name] = neuron.run(step_by_step(signal, steps), state, self.done, overwrite=overwrite)
        return SpikeTrain(values, neuron.amplitude)

    def differences(self, node: Node, *signals: Signal) -> Signal:
        """A node on numbers (:class:`rheobase.graph.operations.OnNumbers`): t f(mean so far), less what it gave."""
        steps = {signal.steps for signal in signals if isinstance(signal, TimeSeries)}
        # neurons that wait need the mean over all steps only; trains of different lengths meet by their means
        if len(steps) != 1 or self.network.reads_means:
            return self.network.graph.compute(node, *(Constant(signal.mean()) for signal in signals))
        (count,) = steps
        *sums, given = self.states.get(node.name) or ((None,) * (len(signals) + 1))
        means, ends = zip(*map(partial(self._running_means, steps=count), signals, sums), strict=True)
        reached = self.network.graph.compute(node, *map(TimeSeries, means)).values
        times = torch.arange(1, count + 1, dtype=reached.dtype, device=reached.device) + self.done
        totals = reached * times.reshape(-1, *(1,) * (reached.dim() - 1))
        before = torch.zeros_like(totals[:1]) if given is None else given
        self.states[node.name] = (*ends, totals[-1:].clone())  # a view would keep all of them
        return Averaged(totals - torch.cat([before, totals[:-1]]), reached)

    def look_up(self, node: Node, signal: Signal) -> Signal:
        """A lookup (:class:`rheobase.graph.operations.lookup.Lookup`): t f(sum so far, t), less what it gave."""
        look_up = partial(self.network.graph.look_up, node)
        if isinstance(signal, Constant):
            return Constant(look_up(signal.values, 1))
        if self.network.reads_means:
            return Constant(look_up(signal.values.sum(0), signal.steps))
        nothing = torch.zeros_like(signal.values[0])
        total, given = self.states.get(node.name) or (nothing, nothing)
        emitted = []
        for t, value in enumerate(signal.values, start=self.done + 1):
            total = total + value
            reached = t * look_up(total, t)
            emitted.append(reached - given)
            given = reached
        self.states[node.name] = total, given
        return TimeSeries(torch.stack(emitted))

    def _running_means(self, signal: Signal, before: Tensor | None, steps: int) -> tuple[Tensor, Tensor]:
        """The means over all steps up to each of these, [steps, B, ...], and the sum to continue from."""
        if isinstance(signal, Constant):
            return signal.values.expand(steps, *signal.values.shape), signal.values
        if isinstance(signal, Averaged):
            return signal.means, signal.means[-1]
        total = torch.zeros_like(signal.values[0]) if before is None else before
        means = []
        for t, value in enumerate(signal.values, start=self.done + 1):  # in order, so that pieces do not matter
            total = total + value
            means.append(total / t)
        return torch.stack(means), total

    def gate(self, node: Node, signal: Signal) -> Signal:
        """Max-pooling of a time series: each window passes on the input with the largest sum over the steps so far.

        In a network that does not stream, it is the input with the largest sum over all steps.
        """
        max_pool: Callable[..., Any] = OPERATIONS[node.operation].apply
        if isinstance(signal, Constant):
            return lift(lambda x: max_pool(x, **node.attributes), signal)
        if not self.network.streams:
            _, winners = max_pool(signal.mean(), **node.attributes, return_indices=True)
            flat = winners.flatten(2).expand(signal.steps, *winners.flatten(2).shape)
            chosen = signal.values.flatten(3).gather(3, flat)
            return replace(signal, values=chosen.reshape(signal.steps, *winners.shape))
        (total,) = self.states.get(node.name) or (torch.zeros_like(signal.values[0]),)
        passed = []
        for value in signal.values:
            total = total + value
            _, winners = max_pool(total, **node.attributes, return_indices=True)
            passed.append(value.flatten(2).gather(2, winners.flatten(2)).reshape(winners.shape))
        self.states[node.name] = (total,)
        return replace(signal, values=torch.stack(passed))  # the output of a spike train is a spike train
