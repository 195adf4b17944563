"""Weights fitted layer by layer to the spikes of the layers before: the weight stage of SNN Calibration."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.core.seeds import generator
from rheobase.data import CalibrationData
from rheobase.graph.operations import in_memory_format
from rheobase.network import SpikingNetwork
from rheobase.neurons import Response
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.held_out import HeldOut
from rheobase.passes.layers import Layer, layers
from rheobase.passes.statistics import observe


class WeightCalibration(CalibrationPass):
    r"""Fit weights and biases layer by layer so that the neurons' time-mean output matches the ANN's activation.

    Li et al. 2021, section 4.3, first stage of the advanced pipeline on ImageNet. With x̄ the time-mean of the input
    spikes from the layers before, which are already calibrated, and q the staircase of the neuron with a
    straight-through gradient,

    .. math:: \min_{W, c} \; \left\| q(W \bar x + c) - a \right\|^2

    by Adam on batches of calibration images. A layer consists of the operations that no earlier site needs: usually one
    convolution, in a residual block also the projection of the shortcut. A tensor shared by several operations is not
    changed, nor is a layer whose error would grow. The pass is reverted if it does not help on held-out images.

    Args:
        learning_rate: learning rate of Adam; 1e-5 in the paper.
        iterations: iterations per layer; 5000 in the paper.
        batch_size: images in an iteration.
        images: number of calibration images, all simulated at once; 1024 in the paper.
        seed: seed of the batches.
    """

    kind: Literal["weight_calibration"] = "weight_calibration"
    learning_rate: float = Field(default=1e-5, gt=0)
    iterations: int = Field(default=5000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    images: int = Field(default=128, ge=1)
    seed: int = 0

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Replace tensors of ``network.graph``; ``network.ann`` is not changed."""
        images = data.fit[: self.images]
        for site in network.sites:
            settable(network, site, "bias", streaming=True)
            self._response(network, site.name)
        check = HeldOut(network, data.held_out)
        changes = Changes()
        activations = _activations(network, images)
        draws = generator(self.seed)
        for layer in track(layers(network, images), "fitting weights", show=progress, total=len(network.sites)):
            names = _own_tensors(network, layer, changes)
            if names and self._fit(network, layer, names, activations[layer.site.index], draws):
                changes.changed[layer.site.name] = names
        if not changes.changed:
            changes.notes.append("the original network kept: no layer's error fell")
            return changes
        changes.notes.append(check.keep_better())
        if network.graph is check.original.graph:
            changes.changed = {}
        return changes

    def _fit(
        self, network: SpikingNetwork, layer: Layer, names: list[str], target: Tensor, draws: torch.Generator
    ) -> bool:
        """Fit the tensors of one layer; False, without a change, if its error did not fall."""
        response = self._response(network, layer.site.name)
        means = {name: signal.mean().clone() for name, signal in layer.inputs.items()}
        start = network.graph
        trained = {name: start.tensor(name).clone().requires_grad_() for name in names}
        graph = start.replace()
        for name, tensor in trained.items():
            graph.put(name, tensor)
        optimiser = torch.optim.Adam(trained.values(), lr=self.learning_rate)

        def error(rows: Tensor) -> Tensor:
            current = layer.mean_current(graph, {name: mean[rows] for name, mean in means.items()})
            return (response.mean_with_gradient(current) - target[rows]).square().mean()

        everything = torch.arange(len(target))
        with torch.no_grad():
            before = float(error(everything))
        for _ in range(self.iterations):
            rows = torch.randperm(len(target), generator=draws)[: self.batch_size]
            optimiser.zero_grad()
            error(rows).backward()
            optimiser.step()
        with torch.no_grad():
            if not float(error(everything)) < before:
                return False
        network.graph = start.replace(tensors={name: tensor.detach() for name, tensor in trained.items()})
        return True

    @staticmethod
    def _response(network: SpikingNetwork, site: str) -> Response:
        response = network.neuron(site).response(network.steps_of(site))
        if response is None:
            raise CalibrationError(
                "has neurons whose response to a constant current is not a fixed staircase",
                where=site,
                remedy="put this pass before passes that set a bias per step or an initial potential outside [0, θ]",
            )
        return response


def _activations(network: SpikingNetwork, images: Tensor) -> list[Tensor]:
    """The ANN's activations of every site, [B, C, ...]."""
    found: list[list[Tensor]] = [[] for _ in network.sites]
    observe(network.ann, images, lambda site, activation: found[site.index].append(activation.clone()))
    return [in_memory_format(torch.cat(parts).to(network.graph.device)) for parts in found]


def _own_tensors(network: SpikingNetwork, layer: Layer, changes: Changes) -> list[str]:
    """Tensors that only this layer's operations use."""
    used = Counter(name for node in network.graph.nodes for name in node.parameters.values())
    own = [name for node in layer.nodes for name in node.parameters.values()]
    shared = [name for name in dict.fromkeys(own) if used[name] > 1]
    if shared:
        changes.notes.append(f"{layer.site.name}: {', '.join(shared)} not changed, used by several operations")
    return [name for name in own if used[name] == 1]
