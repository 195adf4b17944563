"""The base of passes that correct the mean output of layers, and the step that they share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.progress import track
from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.held_out import HeldOut
from rheobase.passes.layers import layers
from rheobase.passes.statistics import channel_means, neuron_means


class MeanCorrection(CalibrationPass):
    """The base of passes that correct the mean output error layer by layer; reverted if the held-out error rises.

    Args:
        images: number of calibration images; the output of a layer for all images and steps is kept in memory.
    """

    parameter: ClassVar[str]
    by_neuron: ClassVar[bool] = False
    """True if the target is a mean for every neuron, not for every channel."""
    images: int = Field(default=128, ge=1)

    @abstractmethod
    def correct(self, neuron: Neuron, mean: Tensor, target: Tensor, steps: int) -> None:
        """Correct the neurons of a site with time-mean output ``mean`` [B, C, ...] over ``steps`` steps."""

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Change the parameter of every neuron."""
        for site in network.sites:
            settable(network, site, self.parameter, streaming=True)
        images = data.fit[: self.images]
        targets = (neuron_means if self.by_neuron else channel_means)(network.ann, images)
        check = HeldOut(network, data.held_out)
        name = f"correcting {self.parameter.replace('_', ' ')}"
        for layer in track(layers(network, images), name, show=progress, total=len(network.sites)):
            mean = layer.mean_output(network)
            target = targets[layer.site.index].to(mean.device)
            self.correct(layer.neuron, mean, target, network.steps_of(layer.site.name))
        return check.conclude(Changes())


def add_bias(neuron: Neuron, bias: Tensor) -> None:
    """Add a constant bias [C] to the bias of the neurons, except of silent channels."""
    bias = torch.where(neuron.amplitude.isinf(), 0.0, bias)
    present = cast("Tensor | None", neuron.bias)
    neuron.set(bias=bias if present is None else present + bias)
