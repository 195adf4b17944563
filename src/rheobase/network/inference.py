"""Fast inference: the closed form of a spiking network, with the neurons' factors folded into the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase.core.errors import RecipeError
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.rewrites.factors import rescale
from rheobase.network.checks import check_input
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons.response import Response

_REMEDY = "run the network itself: snn(images)"


class InferenceNetwork(nn.Module):
    r"""The closed form of a spiking network for one T, in units of spikes; returned by :func:`for_inference`.

    The closed form of a site computes its time-mean output from the time-mean current z, (w/T) clip(⌊m z + c⌋, 0, T),
    in five passes over memory. Here m and c are folded into the weights and the bias before the site, and w/T into the
    weights after it. A site then computes

    .. math:: n = \mathrm{clip}(\lfloor z' \rfloor, 0, T), \qquad z' = m z + c

    with ⌈z'⌉ for neurons that fire only above θ (c is then smaller by 1). The logits are the same in exact arithmetic;
    in floating point, a count may differ where z' is within the last bit of a whole number.

    Attributes:
        graph: the segments between sites, in the new units.
        responses: site -> the staircase of its neurons.
        timesteps: T of the network; the largest T of a site where sites differ.
    """

    def __init__(self, network: SpikingNetwork, timesteps: int) -> None:
        super().__init__()
        if isinstance(network, IntegerNetwork):
            raise RecipeError("is on whole numbers, which have no factors to fold", where="network", remedy=_REMEDY)
        network.check_timesteps(timesteps)
        self.timesteps = timesteps
        self.responses: dict[str, Response] = {}
        after, before, shift = {}, {}, {}
        for site in network.sites:
            network.check_closed_form(site.name, _REMEDY)
            response = network.neuron(site.name).response(network.steps_of(site.name, timesteps))
            if response is None:
                kind = type(network.neuron(site.name)).__name__
                reason = (
                    f"has {kind} neurons whose number of spikes is random, or whose initial potential is outside [0, θ]"
                )
                raise RecipeError(reason, where=site.name, remedy=_REMEDY)
            self.responses[site.name] = response
            before[site.name] = response.gain
            offset = torch.as_tensor(response.offset, dtype=response.gain.dtype, device=response.gain.device)
            shift[site.name] = offset - int(response.strict)
            after[site.name] = torch.where(response.unit > 0, response.unit, 1.0)  # any factor for a silent channel
        self.graph = rescale(network.graph, after, before, shift)
        self._rows = network.sub_batch_size(1)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        """Logits [B, ...] of images [B, ...], or all outputs in their structure.

        Raises:
            DataError: if the images do not fit the network.
        """
        check_input(self.graph, images)
        images = in_memory_format(images.to(self.graph.device))
        logits = torch.cat([self.graph.on_means(batch, self._count) for batch in images.split(self._rows)])
        return self.graph.unpack(logits)

    def _count(self, node: Node, z: Tensor, overwrite: bool) -> Tensor:
        z = z if overwrite else z.clone()
        response = self.responses[node.name]
        return (z.ceil_() if response.strict else z.floor_()).clamp_(response.lower, response.upper)


def for_inference(network: SpikingNetwork, timesteps: int | None = None) -> InferenceNetwork:
    """Build a copy of a network with a closed form that runs at close to the analog network's speed.

    The weights are copied, which doubles their memory. A later calibration of ``network`` does not change the copy.

    Args:
        network: converted by a recipe with a closed form (``network.execution_mode == "counts"``); not modified.
        timesteps: T; default the one it was converted for.

    Raises:
        RecipeError: if a site has no closed form, or the network cannot run for ``timesteps`` steps.

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
