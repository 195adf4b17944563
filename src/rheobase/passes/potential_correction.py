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
    r"""Layer by layer, give every neuron the initial potential that makes up for what it emits too little on average.

    .. math:: V_0 \leftarrow V_0 + T \, (E[a] - E[\text{mean}_t\, \theta s[t]])

    for each neuron, E over images. Li et al. 2021, section 4.2 (Eq. 15), the advanced pipeline. Undone if it does not
    help on held-out images.

    Args:
        images: how many calibration images to simulate; what a layer emits, at every step, is held in memory for all.
    """

    kind: Literal["potential_correction"] = "potential_correction"
    images: int = Field(default=128, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Change ``initial_potential``, now one for every neuron, in units of θ."""
        images = data.fit[: self.images]
        targets = neuron_means(network.ann, images)

        def correct(layer: Layer, mean: Tensor) -> None:
            neuron = network.neuron(layer.site.name)
            missing = targets[layer.site.index].to(mean.device) - mean.double().mean(0)
            dims = mean.dim()
            theta = along_channels(neuron.amplitude, dims)
            rise = torch.where(theta.isinf(), 0.0, network.steps_of(layer.site.name) * missing / theta)
            there = along_channels(cast(Tensor, neuron.initial_potential), dims)
            neuron.set(initial_potential=(there + rise).to(mean.dtype))

        return correct_layers(network, data, images, correct, "initial_potential", progress)
