"""Judgement of a pass on held-out images, and reverting."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.network.spiking_network import SpikingNetwork


@torch.inference_mode()
def logit_error(network: SpikingNetwork, images: Tensor) -> float:
    """Σ‖SNN − ANN‖² / Σ‖ANN‖² of the logits over all images; 0 without images."""
    if len(images) == 0:
        return 0.0
    return relative_error(network(images), network.ann(images.to(network.graph.device)).double())


def relative_error(logits: Tensor, reference: Tensor) -> float:
    """Σ‖logits − reference‖² / Σ‖reference‖²."""
    energy = float(reference.square().sum())
    return float((logits.double() - reference).square().sum()) / (energy if energy > 0 else 1.0)


class Snapshot:
    """A copy of the weights and neurons of a network, to restore later."""

    def __init__(self, network: SpikingNetwork) -> None:
        self.graph = network.graph
        self.neurons = [
            {name: None if value is None else value.clone() for name, value in neuron._buffers.items()}
            for neuron in network.neurons
        ]

    def restore(self, network: SpikingNetwork) -> None:
        """Restore the weights and neurons."""
        network.graph = self.graph
        for neuron, buffers in zip(network.neurons, self.neurons, strict=True):
            for name, value in buffers.items():
                setattr(neuron, name, None if value is None else value.clone())

    def changed(self, network: SpikingNetwork) -> dict[str, list[str]]:
        """Names of the changed parameters, by site name, for the sites with changes."""
        differences = {site.name: self.differs(network, site.index) for site in network.sites}
        return {name: parameters for name, parameters in differences.items() if parameters}

    def differs(self, network: SpikingNetwork, site: int) -> list[str]:
        """Names of the changed parameters of a site's neurons."""
        now = dict(network.neurons[site].named_buffers())
        then = {name: value for name, value in self.neurons[site].items() if value is not None}
        return [name for name in now if name not in then or not torch.equal(now[name], then[name])]


class HeldOut:
    """The state and held-out error of a network before a pass, to revert the pass if it increases the error.

    The error is :func:`logit_error`, which is squared and over all images, unlike that of :func:`rheobase.evaluate`.

    Args:
        network: the network before the pass.
        images: held-out images; without any, the pass is not judged and not reverted.
    """

    def __init__(self, network: SpikingNetwork, images: Tensor) -> None:
        self.network, self.images = network, images
        self.original = Snapshot(network)
        self.before = logit_error(network, images)

    def keep_better(self) -> str:
        """Keep the present state, or revert if it has the larger error; return a note on the decision."""
        if len(self.images) == 0:
            return "not checked: no images are held out"
        after = logit_error(self.network, self.images)
        change = f"squared logit error on {len(self.images)} held-out images {self.before:.3g} -> {after:.3g}"
        if after <= self.before:
            return change
        self.original.restore(self.network)
        return f"reverted, the original network kept: {change}"
