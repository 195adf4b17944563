"""A converted network made ready to answer: its closed form with the neurons' factors moved into the weights."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rheobase.core.errors import RecipeError
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.rewrites.factors import rescale
from rheobase.network.checks import check_input
from rheobase.network.spiking_network import ROWS_IN_FLIGHT, SpikingNetwork, check_converted
from rheobase.neurons import Neuron, WindowNeuron


class InferenceNetwork(nn.Module):
    r"""The closed form of a spiking network for one T, in units of spikes; made by :func:`for_inference`.

    The closed form of a site turns a mean current z into what it emits on average, (w/T) clip(⌊m z + c⌋, 0, T): five
    passes over memory. Here m and c are in the weights and the bias in front of the site, w/T is in the weights behind
    it, and a site is

    .. math:: n = \mathrm{clip}(\lfloor z' \rfloor, 0, T), \qquad z' = m z + c

    with ⌈z'⌉ for neurons that fire only above θ (c is then less by 1). In exact arithmetic it gives the same answers.
    In floating point the last bit of z' may be another one, and where z' lies that close to a whole number, so may be
    the count.

    Attributes:
        graph: the segments between sites, in the new units.
        steps: site -> T.
        timesteps: T of the network; where sites have a T of their own, the longest.
    """

    def __init__(self, network: SpikingNetwork, timesteps: int) -> None:
        super().__init__()
        network.check_timesteps(timesteps)
        self.timesteps = timesteps
        self.steps: dict[str, int] = {}
        self.strict: set[str] = set()
        after, before, shift = {}, {}, {}
        for site in network.sites:
            neuron = network.neuron(site.name)
            steps = neuron.steps(timesteps, network.timesteps)
            reason = _why_not(neuron, steps)
            if reason is not None:
                raise RecipeError(
                    f"{reason}: nothing can move into weights",
                    where=site.name,
                    remedy="run the network itself: snn(images)",
                )
            neuron = cast(WindowNeuron, neuron)
            self.steps[site.name] = steps
            before[site.name], shift[site.name] = neuron.line(steps)
            worth = neuron.worth()
            after[site.name] = torch.where(worth > 0, worth, 1.0) / steps  # a silent channel emits nothing anyway
            if neuron.strict:
                self.strict.add(site.name)
        self.graph = rescale(network.graph, after, before, shift)
        self._rows = min(network.images_in_budget(1), ROWS_IN_FLIGHT)
        self.eval()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, ...] of images [B, ...].

        Raises:
            DataError: if the images do not fit the network.
        """
        check_input(self.graph, images)
        images = in_memory_format(images.to(self.graph.device))
        return torch.cat([self.graph.on_held_values(piece, self._count) for piece in images.split(self._rows)])

    def _count(self, node: Node, z: Tensor, overwrite: bool) -> Tensor:
        z = z if overwrite else z.clone()
        return (z.ceil_() if node.name in self.strict else z.floor_()).clamp_(0, self.steps[node.name])


def _why_not(neuron: Neuron, steps: int) -> str | None:
    """Why a site's rate is not clip(⌊m z + c⌋, 0, T) of its line; None if it is."""
    if not isinstance(neuron, WindowNeuron):
        return f"has {type(neuron).__name__} neurons, whose count depends on when its input comes"
    if not neuron.has_closed_form:
        return "has neurons that start outside [0, θ] and have to be stepped"
    if not _rate_is_of_the_line(neuron, steps):
        return f"has {type(neuron).__name__} neurons, whose rate is not that of their line"
    return None


@torch.no_grad()
def _rate_is_of_the_line(neuron: WindowNeuron, steps: int) -> bool:
    """Whether the neuron's own rate is that of m and c, half-way between edges; a registered one may have another."""
    m, c, worth = torch.broadcast_tensors(*(value.reshape(-1) for value in (*neuron.line(steps), neuron.worth())))
    drive = torch.arange(-1, steps + 2).to(m).add(0.5)[:, None]
    count = (drive.ceil() if neuron.strict else drive.floor()).clamp(0, steps)
    wanted = torch.where(m > 0, worth * count / steps, 0.0)
    return torch.allclose(neuron.rate((drive - c) / torch.where(m > 0, m, 1.0), steps), wanted)


def for_inference(network: SpikingNetwork, timesteps: int | None = None) -> InferenceNetwork:
    """Make a network with a closed form ready to answer as fast as it can, at close to the analog network's speed.

    Twice the memory for weights, and what is calibrated in the network afterwards does not reach what this returns.

    Args:
        network: converted by a recipe with a closed form (``network.runs_as() == "counts"``); it is left as it is.
        timesteps: T; default the one it was converted for.

    Raises:
        RecipeError: naming a site without a closed form, or if the network cannot run for so many steps.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(8, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.ParallelConversion(timesteps=4), calibration=images)
        >>> rb.for_inference(snn)(images).shape
        torch.Size([8, 10])
    """
    check_converted(network)
    return InferenceNetwork(network, network.timesteps if timesteps is None else timesteps)
