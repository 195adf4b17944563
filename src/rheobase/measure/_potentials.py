"""Membrane potentials just before firing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.checks import check_whole
from rheobase.core.errors import RecipeError
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron
from rheobase.signals.signal import Signal, along_channels


@dataclass(frozen=True)
class Potentials:
    """Potentials of a site's neurons at one step, after integration (and bias) and before firing.

    Attributes:
        site: its name.
        step: t, from 1.
        values: in units of the channel's θ (a neuron fires at 1 and above), [B, C, ...]; channels that are kept silent
            are NaN.
    """

    site: str
    step: int
    values: Tensor

    def of(self, channel: int | None = None) -> Tensor:
        """All values, or a channel's, as one row without the silent ones.

        Raises:
            RecipeError: if there is no such channel.
        """
        channels = self.values.shape[1]
        if channel is not None and not 0 <= channel < channels:
            raise RecipeError(f"is {channel}", where="channel", remedy=f"{self.site} has channels 0 to {channels - 1}")
        values = self.values if channel is None else self.values[:, channel]
        return values[~values.isnan()]

    def histogram(self, bins: int = 100, channel: int | None = None) -> tuple[Tensor, Tensor]:
        """Counts [bins] and edges [bins + 1], for the site or one channel."""
        counts, edges = torch.histogram(self.of(channel), bins)
        return counts.long(), edges


@torch.no_grad()
def potentials(network: SpikingNetwork, images: Tensor, site: str, step: int) -> Potentials:
    """Simulate up to a step and read the potentials of a site before it fires (Wu et al. 2024, Fig. 4).

    Args:
        network: a network of integrate-and-fire neurons.
        images: [B, ...].
        site: name of the site.
        step: t, from 1.

    Raises:
        RecipeError: if there is no such site or step, or its neurons have no such potential.

    Example:
        >>> counts, edges = rb.measure.potentials(snn, images, "layer2.0.relu", step=4).histogram()  # doctest: +SKIP
    """
    check_converted(network)
    if not network.streams:
        raise RecipeError(
            "do not go through time together: a site waits for the whole input of another",
            where="the network's sites",
            remedy="use integrate-and-fire neurons with one T",
        )
    names = [s.name for s in network.sites]
    if site not in names:
        raise RecipeError(f"{site!r} is not a site", where="site", remedy=f"use one of {', '.join(names)}")
    step = check_whole(step, "step", most=network.timesteps)
    neuron = network.neuron(site)
    if not neuron.has_membrane:
        raise RecipeError(f"has {type(neuron).__name__} neurons, without a potential at each step", where=site)
    images = network.check_images(images)
    pieces = [_before_firing(network, neuron, piece, site, step) for piece in images.split(network.piece_size(1))]
    values = torch.cat(pieces)
    theta = along_channels(neuron.amplitude, values.dim())
    return Potentials(site, step, torch.where(theta.isinf(), torch.nan, values / theta).cpu())


def _before_firing(network: SpikingNetwork, neuron: Neuron, images: Tensor, site: str, step: int) -> Tensor:
    simulation = Simulation(network)
    early = network.begin(images)
    found: list[Tensor] = []
    for t in range(step):
        simulation.advance(1)

        def watch(node: Node, signal: Signal, t: int = t) -> Signal:
            if node.name == site and t == step - 1:
                found.append(neuron.potential(*simulation.before(node, signal), t))
            return simulation.fire(node, signal)

        run(network.graph, network.between, dict(early), watch)
    return found[0]
