"""Observe a simulation: the current and spikes of every site, and its spikes under a constant current."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.graph.sites import Site
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.signals.signal import Signal, SpikeCounts, SpikeTrain, along_channels, count_spikes


@dataclass(frozen=True)
class Observation:
    """Currents and spikes of one site over all its steps, for a batch of images.

    Attributes:
        site: the site.
        neuron: its neurons.
        steps: T of the site.
        current: the time-mean of its current, [B, C, ...], in the neurons' units.
        spikes: the emitted spikes.
        constant: the spikes under the constant current.
        spike: the value of one spike in units of the activation, broadcastable; 0 for a silent channel.
        unit: the value of one unit of current, likewise.
    """

    site: Site
    neuron: Neuron
    steps: int
    current: Tensor
    spikes: SpikeCounts
    constant: SpikeCounts
    spike: Tensor
    unit: Tensor

    @property
    def z(self) -> Tensor:
        """The time-mean of the current in units of the activation, [B, C, ...]."""
        return self.current if self.unit.dim() == 0 else self.current * self.unit

    @property
    def emitted(self) -> Tensor:
        """The time-mean of the output in units of the activation, [B, C, ...]."""
        return self.spikes.net.to(self.spike.dtype) * (self.spike / self.steps)


def observe(network: SpikingNetwork, images: Tensor, steps: int, see: Callable[[Observation], None]) -> None:
    """Simulate ``steps`` steps of images [B, ...], and call ``see`` for every site, in execution order."""
    # without overwriting, because the current is read again after the neurons have fired
    fire = Simulation(network).advance(steps)
    sites = {site.name: site for site in network.sites}

    def watch(node: Node, *signals: Signal) -> Signal:
        emitted = fire(node, *signals)
        if node.operation == "site":
            assert isinstance(emitted, SpikeTrain)
            (signal,), neuron = signals, network.neuron(node.name)
            constant = count_spikes(neuron.under_constant_current(signal, emitted.steps))
            values = (along_channels(value, emitted.values.dim() - 1) for value in neuron.activation_units)
            found = emitted.steps, signal.mean(), count_spikes(emitted), constant
            see(Observation(sites[node.name], neuron, *found, *values))
        return emitted

    run(network.graph, network.between, network.begin(images), watch)


def analog_values(graph: Graph, images: Tensor) -> dict[str, Tensor]:
    """Activations of the sites of an analog network, as site -> [B, C, ...]."""
    activation: dict[str, Tensor] = {}

    def keep(node: Node, current: Tensor, overwrite: bool) -> Tensor:
        activation[node.name] = graph.activate(node, current.clone())
        return activation[node.name]

    graph.on_means(images, keep)
    return activation


def currents(graph: Graph, images: Tensor, emitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The current of every site, [B, C, ...], for given time-means of the outputs of all sites."""
    arrived: dict[str, Tensor] = {}

    def keep(node: Node, current: Tensor, overwrite: bool) -> Tensor:
        arrived[node.name] = current.clone()
        return emitted[node.name].to(current.dtype)

    graph.on_means(images, keep)
    return arrived
