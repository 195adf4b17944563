"""Membrane potentials just before firing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rheobase.core.checks import check_whole
from rheobase.core.errors import RecipeError
from rheobase.data.value_range import ValueRange, warn_of_another_scale
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron
from rheobase.signals.signal import Signal, along_channels


@dataclass(frozen=True)
class Potentials:
    """Membrane potentials of a site at one step, after integration (and bias) and before firing.

    Attributes:
        site: name of the site.
        step: t, counted from 1.
        values: potentials in units of the channel's θ (a neuron fires at 1 and above), [B, C, ...]; NaN in silent
            channels.
    """

    site: str
    step: int
    values: Tensor

    def of(self, channel: int | None = None) -> Tensor:
        """Return the values of all channels or of one, flattened, without silent channels.

        Raises:
            RecipeError: if the channel does not exist.
        """
        channels = self.values.shape[1]
        if channel is not None and not 0 <= channel < channels:
            raise RecipeError(f"is {channel}", where="channel", remedy=f"use 0 to {channels - 1} for {self.site}")
        values = self.values if channel is None else self.values[:, channel]
        return values[~values.isnan()]

    def histogram(self, bins: int = 100, channel: int | None = None) -> tuple[Tensor, Tensor]:
        """Return counts [bins] and edges [bins + 1], for the site or one channel."""
        counts, edges = torch.histogram(self.of(channel), bins)
        return counts.long(), edges


@torch.no_grad()
def potentials(network: SpikingNetwork, images: Tensor, site: str, step: int) -> Potentials:
    """Return the potentials of a site at one step, before it fires (Wu et al. 2024, Fig. 4).

    Args:
        network: a network of integrate-and-fire neurons.
        images: [B, ...].
        site: name of the site.
        step: t, counted from 1.

    Raises:
        RecipeError: if the site or step does not exist, a site waits for its whole input, or the site's neurons have
            no membrane potential.

    Example:
        >>> counts, edges = rb.measure.potentials(snn, images, "layer2.0.relu", step=4).histogram()  # doctest: +SKIP
    """
    check_converted(network)
    if not network.streams:
        raise RecipeError(
            "has sites that wait for their whole input, so that it has no common time-step",
            where="network",
            remedy="use integrate-and-fire neurons with the same T at every site",
        )
    names = [s.name for s in network.sites]
    if site not in names:
        raise RecipeError(f"{site!r} is not a site", where="site", remedy=f"use one of {', '.join(names)}")
    step = check_whole(step, "step", most=network.timesteps)
    neuron = network.neuron(site)
    if not neuron.has_membrane:
        raise RecipeError(
            f"has {type(neuron).__name__} neurons, which have no membrane potential",
            where=site,
            remedy="use integrate-and-fire neurons",
        )
    images = network.check_images(images)
    warn_of_another_scale(ValueRange().add(images), network.provenance.calibration.get("values"), "images")
    batches = images.split(network.sub_batch_size(1))
    values = torch.cat([_before_firing(network, neuron, batch, site, step) for batch in batches])
    theta = along_channels(neuron.amplitude, values.dim())
    return Potentials(site, step, torch.where(theta.isinf(), torch.nan, values / theta).cpu())


def _before_firing(network: SpikingNetwork, neuron: Neuron, images: Tensor, site: str, step: int) -> Tensor:
    simulation, early = Simulation(network), network.begin(images)
    found = images

    def watch(node: Node, *signals: Signal, t: int) -> Signal:
        nonlocal found
        if node.name == site and t == step - 1:
            found = neuron.potential(*simulation.before(node, *signals), t)
        return simulation.fire(node, *signals)

    for t in range(step):
        simulation.advance(1)
        run(network.graph, network.between, dict(early), partial(watch, t=t))
    return found
