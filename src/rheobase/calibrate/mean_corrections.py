"""Corrections of what a layer emits on average over time: SNN Calibration's bias and potential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.calibrate.data import CalibrationData
from rheobase.calibrate.held_out import HeldOut
from rheobase.calibrate.layers import Layer, layers
from rheobase.calibrate.passes import CalibrationPass, Changes, integrate_fire
from rheobase.calibrate.statistics import channel_means, neuron_means
from rheobase.network import SpikingNetwork
from rheobase.neurons import IntegrateFire
from rheobase.progress import track
from rheobase.signal import along_channels


class ShiftCurrent(CalibrationPass):
    r"""Add a part of the threshold to the current, spread evenly over the steps: :math:`-b = shift \cdot \theta / T`.

    The shift term of Deng & Gu 2021 (RTS), also in the neuron of Li et al. 2021. Under a constant current the count is
    that of an initial potential V0 = shift · θ; the first spikes come later.

    Args:
        shift: in units of θ.
    """

    kind: Literal["shift_current"] = "shift_current"
    shift: float = Field(default=0.5, gt=0, le=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``bias`` [C] of every neuron."""
        changes = Changes()
        for site in network.sites:
            neuron = integrate_fire(network, site)
            theta = neuron.threshold.expand(site.channels)
            add_bias(neuron, torch.where(theta.isinf(), 0.0, -self.shift * theta / network.steps_of(site.name)))
            changes.changed[site.name] = ["bias"]
        return changes


class BiasCorrection(CalibrationPass):
    r"""Layer by layer, shift the current of every channel by what the channel emits too little on average.

    .. math:: b \leftarrow b + E[\text{mean}_t\, \theta s[t]] - E[a]

    Li et al. 2021, section 4.2, the light pipeline; b is subtracted from the current at every step. Undone if it does
    not help on held-out images.

    Args:
        images: how many calibration images to simulate; what a layer emits, at every step, is held in memory for all.
    """

    kind: Literal["bias_correction"] = "bias_correction"
    images: int = Field(default=128, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Change ``bias`` of every neuron."""
        images = data.fit[: self.images]
        targets = channel_means(network.ann, images)

        def correct(layer: Layer, mean: Tensor) -> None:
            neuron = integrate_fire(network, layer.site)
            excess = mean.movedim(1, 0).flatten(1).double().mean(1) - targets[layer.site.index].to(mean.device)
            add_bias(neuron, torch.where(neuron.threshold.isinf(), 0.0, excess).to(mean.dtype))

        return correct_layers(network, data, images, correct, "correcting biases", progress)


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
            neuron = integrate_fire(network, layer.site)
            missing = targets[layer.site.index].to(mean.device) - mean.double().mean(0)
            dims = mean.dim()
            theta = along_channels(neuron.threshold, dims)
            rise = torch.where(theta.isinf(), 0.0, network.steps_of(layer.site.name) * missing / theta)
            neuron.initial_potential = (along_channels(neuron.initial_potential, dims) + rise).to(mean.dtype)

        return correct_layers(network, data, images, correct, "correcting potentials", progress)


def correct_layers(
    network: SpikingNetwork,
    data: CalibrationData,
    images: Tensor,
    correct: Callable[[Layer, Tensor], None],
    description: str,
    progress: bool,
) -> Changes:
    """Hand each layer, with the time-mean [B, C, ...] of what it emits, to ``correct``; undo all if it did not help."""
    for site in network.sites:
        integrate_fire(network, site)
    check = HeldOut(network, data.held_out)
    for layer in track(layers(network, images), description, show=progress, total=len(network.sites)):
        correct(layer, layer.mean_output(network))
    note = check.keep_better()
    return Changes(check.original.changed(network), [note])


def add_bias(neuron: IntegrateFire, bias: Tensor) -> None:
    """Add a constant bias [C] to what the neuron has."""
    neuron.bias = bias if neuron.bias is None else neuron.bias + bias
