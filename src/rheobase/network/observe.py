"""Observe a simulation: the current and spikes of every site, and its spikes under a constant current."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.sites import Site
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.neurons.response import finite_amplitude
from rheobase.signals.signal import Constant, Signal, SpikeCounts, SpikeTrain, along_channels, count_spikes


@dataclass(frozen=True)
class Observation:
    """Currents and spikes of one site over all its steps, for a batch of images.

    Attributes:
        site: the site.
        neuron: its neurons.
        steps: T of the site.
        current: z, the time-mean of its current, [B, C, ...].
        spikes: the emitted spikes.
        constant: the spikes under the constant current z.
        amplitude: value of one spike, broadcastable; 0 for a silent channel.
    """

    site: Site
    neuron: Neuron
    steps: int
    current: Tensor
    spikes: SpikeCounts
    constant: SpikeCounts
    amplitude: Tensor


def observe(network: SpikingNetwork, images: Tensor, steps: int, see: Callable[[Observation], None]) -> None:
    """Simulate ``steps`` steps of images [B, ...], and call ``see`` for every site, in execution order."""
    # without overwriting, because the current is read again after the neurons have fired
    fire = Simulation(network).advance(steps)
    sites = {site.name: site for site in network.sites}

    def watch(node: Node, signal: Signal) -> Signal:
        emitted = fire(node, signal)
        if node.operation == "site":
            assert isinstance(emitted, SpikeTrain)
            neuron = network.neuron(node.name)
            constant = count_spikes(neuron.under_constant_current(signal, emitted.steps))
            amplitude = finite_amplitude(along_channels(neuron.amplitude, emitted.values.dim() - 1))
            found = emitted.steps, signal.mean(), count_spikes(emitted), constant, amplitude
            see(Observation(sites[node.name], neuron, *found))
        return emitted

    run(network.graph, network.between, network.begin(images), watch)


def analog_values(
    network: SpikingNetwork, images: Tensor, emit: Callable[[Node, Tensor], Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pre-activations and activations of the analog network's sites, each as site -> [B, C, ...].

    ``emit`` gives (node, activation) -> the output of the site in place of its activation.
    """
    arrived: dict[str, Tensor] = {}
    activation: dict[str, Tensor] = {}

    def keep(node: Node, signal: Signal) -> Signal:
        value = network.ann.analog(node, signal)
        if node.operation != "site":
            return value
        arrived[node.name], activation[node.name] = signal.mean(), value.mean()
        return value if emit is None else Constant(emit(node, value.mean()))

    plan = schedule(network.ann.nodes[1:], keep={network.ann.output})
    run(network.ann, plan, {network.ann.nodes[0].name: Constant(images)}, keep)
    return arrived, activation
