"""The simulation: the state of every neuron and max-pool gate, advanced over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.graph.rewrites.alignment import OPERATION as ALIGN
from rheobase.graph.sites import Site
from rheobase.neurons import Neuron, State
from rheobase.signals.signal import Constant, Signal, SpikeTrain, TimeSeries, lift, step_by_step

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

    def advance(self, steps: int) -> Callable[[Node, Signal], Signal]:
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

    def fire(self, node: Node, signal: Signal) -> Signal:
        """The output of a non-linear node over these steps: a site, a max-pool gate or an alignment."""
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
