"""SNN Calibration, advanced pipeline: an initial potential for every neuron."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.data.calibration_data import CalibrationData
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes
from rheobase.passes.layers import Layer
from rheobase.passes.mean_corrections import correct_layers
from rheobase.passes.statistics import neuron_means
from rheobase.signals.signal import along_channels


class PotentialCorrection(CalibrationPass):
    r"""Correct the initial potential of every neuron, layer by layer, by its mean output error.

    .. math:: V_0 \leftarrow V_0 + T \, (E[a] - E[\text{mean}_t\, \theta s[t]])

    for each neuron, with E over images (Li et al. 2021, section 4.2, Eq. 15, the advanced pipeline). Reverted if it
    does not help on held-out images.

    Args:
        images: number of calibration images; the output of a layer for all images and steps is kept in memory.
    """

    kind: Literal["potential_correction"] = "potential_correction"
    images: int = Field(default=128, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``initial_potential`` of every neuron, in units of θ."""
        images = data.fit[: self.images]
        targets = neuron_means(network.ann, images)

        def correct(layer: Layer, mean: Tensor) -> None:
            neuron = network.neuron(layer.site.name)
            missing = targets[layer.site.index].to(mean.device) - mean.double().mean(0)
            dims = mean.dim()
            theta = along_channels(neuron.amplitude, dims)
            rise = torch.where(theta.isinf(), 0.0, network.steps_of(layer.site.name) * missing / theta)
            present = along_channels(cast(Tensor, neuron.initial_potential), dims)
            neuron.set(initial_potential=(present + rise).to(mean.dtype))

        return correct_layers(network, data, images, correct, "initial_potential", progress)
