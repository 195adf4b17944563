"""The simulation: the state of every neuron and gate, advanced over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

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
"""Called for every site with what it emits for the piece of the batch at hand: a SpikeTrain [T, B, C, ...]; in closed
form its time-mean, MeanSpikes [B, C, ...]."""


class Simulation:
    """The state of every neuron (and max-pool gate) of one piece of a batch, and how far it has run.

    Args:
        network: whose neurons.
        monitor: called for every site and piece.
        overwrite: spikes may be written over currents that nobody else reads.
    """

    def __init__(self, network: SpikingNetwork, monitor: Monitor | None = None, *, overwrite: bool = False) -> None:
        self.network, self.monitor = network, monitor
        self.overwriting = network.overwriting if overwrite else frozenset()
        self.states: dict[str, State] = {}
        self.done = self.steps = 0

    def advance(self, steps: int) -> Callable[[Node, Signal], Signal]:
        """What to do at non-linear nodes for the next ``steps`` steps."""
        self.done += self.steps
        self.steps = steps
        return self.fire

    def before(self, node: Node, signal: Signal) -> tuple[Tensor, State]:
        """A site's current [B, C, ...] of the next step, and the state its neurons are in."""
        current = signal.values if isinstance(signal, Constant) else signal.values[0]
        if node.name not in self.states:
            self.states[node.name] = self.network.neuron(node.name).init(current.shape, current)
        return current, self.states[node.name]

    def fire(self, node: Node, signal: Signal) -> Signal:
        """What a site's neurons emit, or a max-pool gate lets through, over these steps."""
        if node.operation == "max_pool":
            return self.gate(node, signal)
        if node.operation == ALIGN:
            return self.network.alignment.align(signal, self.steps_of(node.attributes["site"]))
        index = self.network._index[node.name]
        train = self.emit(node, cast(Neuron, self.network.neurons[index]), signal)
        if self.monitor is not None:
            self.monitor(self.network.sites[index], train)
        return train

    def steps_of(self, site: str) -> int:
        """T of a site for these steps of the network."""
        return self.network.steps_of(site, self.steps)

    def emit(self, node: Node, neuron: Neuron, signal: Signal) -> SpikeTrain:
        """The spikes of a site's neurons over these steps."""
        steps = self.steps_of(node.name)
        if self.network.protocol is not None:
            return self.network.protocol.emit(neuron, signal, steps)
        if not neuron.streams:
            return neuron.train_of(signal, steps)
        _, state = self.before(node, signal)
        overwrite = isinstance(signal, TimeSeries) and node.name in self.overwriting
        values, self.states[node.name] = neuron.run(step_by_step(signal, steps), state, self.done, overwrite=overwrite)
        return SpikeTrain(values, neuron.amplitude)

    def gate(self, node: Node, signal: Signal) -> Signal:
        """Max-pooling of a train: each window lets through the input with the largest running sum so far.

        Where neurons wait for their whole input, so does the gate: it lets through the input with the largest sum.
        """
        max_pool: Callable[..., Any] = OPERATIONS[node.operation].apply
        if isinstance(signal, Constant):
            return lift(lambda x: max_pool(x, **node.attributes), signal)
        if not self.network.streams:
            _, winners = max_pool(signal.mean(), **node.attributes, return_indices=True)
            flat = winners.flatten(2).expand(signal.steps, *winners.flatten(2).shape)
            return replace(
                signal, values=signal.values.flatten(3).gather(3, flat).reshape(signal.steps, *winners.shape)
            )
        (total,) = self.states.get(node.name) or (torch.zeros_like(signal.values[0]),)
        passed = []
        for value in signal.values:
            total = total + value
            _, winners = max_pool(total, **node.attributes, return_indices=True)
            passed.append(value.flatten(2).gather(2, winners.flatten(2)).reshape(winners.shape))
        self.states[node.name] = (total,)
        return replace(signal, values=torch.stack(passed))  # spikes stay spikes
