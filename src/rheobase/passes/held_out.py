"""Whether a pass helped, on images it was not fitted to."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.network.spiking_network import SpikingNetwork


@torch.inference_mode()
def logit_error(network: SpikingNetwork, images: Tensor) -> float:
    """Σ‖SNN − ANN‖² / Σ‖ANN‖² of the logits over all images; 0 for none."""
    if len(images) == 0:
        return 0.0
    return relative_error(network(images), network.ann(images.to(network.graph.device)).double())


def relative_error(logits: Tensor, reference: Tensor) -> float:
    """Σ‖logits − reference‖² / Σ‖reference‖²."""
    energy = float(reference.square().sum())
    return float((logits.double() - reference).square().sum()) / (energy if energy > 0 else 1.0)


class Snapshot:
    """Weights and neurons of a network at one moment, to go back to."""

    def __init__(self, network: SpikingNetwork) -> None:
        self.graph = network.graph
        self.neurons = [
            {name: None if value is None else value.clone() for name, value in neuron._buffers.items()}
            for neuron in network.neurons
        ]

    def restore(self, network: SpikingNetwork) -> None:
        """Put everything back."""
        network.graph = self.graph
        for neuron, buffers in zip(network.neurons, self.neurons, strict=True):
            for name, value in buffers.items():
                setattr(neuron, name, None if value is None else value.clone())

    def changed(self, network: SpikingNetwork) -> dict[str, list[str]]:
        """Site name -> what of its neurons is not what it was, for the sites where something is."""
        differences = {site.name: self.differs(network, site.index) for site in network.sites}
        return {name: parameters for name, parameters in differences.items() if parameters}

    def differs(self, network: SpikingNetwork, site: int) -> list[str]:
        """Names of the parameters of a site's neurons that are not what they were."""
        now = dict(network.neurons[site].named_buffers())
        then = {name: value for name, value in self.neurons[site].items() if value is not None}
        return [name for name in now if name not in then or not torch.equal(now[name], then[name])]


class HeldOut:
    """Remembers a network and its error on held-out images before a pass, to undo the pass if it made that worse.

    The error is that of :func:`logit_error`: squared and over all images, unlike the one of :func:`rheobase.evaluate`.

    Args:
        network: before the pass.
        images: held out; with none, nothing can be judged and the pass stays.
    """

    def __init__(self, network: SpikingNetwork, images: Tensor) -> None:
        self.network, self.images = network, images
        self.original = Snapshot(network)
        self.before = logit_error(network, images)

    def keep_better(self) -> str:
        """Keep the network as it is now or go back, whichever errs less; a sentence that says which."""
        if len(self.images) == 0:
            return "not checked: no images are held out"
        after = logit_error(self.network, self.images)
        change = f"squared logit error on {len(self.images)} held-out images {self.before:.3g} -> {after:.3g}"
        if after <= self.before:
            return change
        self.original.restore(self.network)
        return f"undone, the original network kept: {change}"
