"""SNN Calibration, light pipeline: a bias for every channel."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.data.calibration_data import CalibrationData
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes
from rheobase.passes.layers import Layer
from rheobase.passes.mean_corrections import correct_layers
from rheobase.passes.shift_current import add_bias
from rheobase.passes.statistics import channel_means


class BiasCorrection(CalibrationPass):
    r"""Correct the bias of every channel, layer by layer, by the mean output error of the channel.

    .. math:: b \leftarrow b + E[\text{mean}_t\, \theta s[t]] - E[a]

    Li et al. 2021, section 4.2, the light pipeline; b is subtracted from the current at every step. Reverted if it does
    not help on held-out images.

    Args:
        images: number of calibration images; the output of a layer for all images and steps is kept in memory.
    """

    kind: Literal["bias_correction"] = "bias_correction"
    images: int = Field(default=128, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Change ``bias`` of every neuron."""
        images = data.fit[: self.images]
        targets = channel_means(network.ann, images)

        def correct(layer: Layer, mean: Tensor) -> None:
            neuron = network.neuron(layer.site.name)
            excess = mean.movedim(1, 0).flatten(1).double().mean(1) - targets[layer.site.index].to(mean.device)
            add_bias(neuron, torch.where(neuron.amplitude.isinf(), 0.0, excess).to(mean.dtype))

        return correct_layers(network, data, images, correct, "bias", progress)
