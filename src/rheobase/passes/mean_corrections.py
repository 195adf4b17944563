"""Corrections of bias and initial potential, site by site: RTS's shift and SNN Calibration's two pipelines."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, cast

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
from rheobase.signals import along_channels


class ShiftCurrent(CalibrationPass):
    r"""Add a fraction of the threshold to the current, spread over the steps: :math:`-b = shift \cdot \theta / T`.

    The shift term of Deng & Gu 2021 (RTS), also in the neuron of Li et al. 2021. Under a constant current the count is
    that of an initial potential V0 = shift · θ, with later first spikes.

    Args:
        shift: total shift over the T steps, in units of θ.
    """

    kind: Literal["shift_current"] = "shift_current"
    shift: float = Field(default=0.5, gt=0, le=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``bias`` [C] of every neuron."""
        for site in network.sites:
            neuron = settable(network, site, "bias", streaming=True)
            theta = neuron.amplitude.expand(site.channels)
            _add_bias(neuron, -self.shift * theta / network.steps_of(site.name))
        return Changes({site.name: ["bias"] for site in network.sites})


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


class BiasCorrection(MeanCorrection):
    r"""Correct the bias of every channel, layer by layer, by the mean output error of the channel.

    .. math:: b \leftarrow b + E[\text{mean}_t\, \theta s[t]] - E[a]

    Li et al. 2021, section 4.2, the light pipeline; b is subtracted from the current at every step. Reverted if it does
    not help on held-out images.

    Args:
        images: see :class:`MeanCorrection`.
    """

    kind: Literal["bias_correction"] = "bias_correction"
    parameter = "bias"

    def correct(self, neuron: Neuron, mean: Tensor, target: Tensor, steps: int) -> None:
        """Add the excess to the bias."""
        _add_bias(neuron, (mean.movedim(1, 0).flatten(1).double().mean(1) - target).to(mean.dtype))


class PotentialCorrection(MeanCorrection):
    r"""Correct the initial potential of every neuron, layer by layer, by its mean output error.

    .. math:: V_0 \leftarrow V_0 + T \, (E[a] - E[\text{mean}_t\, \theta s[t]])

    for each neuron, with E over images (Li et al. 2021, section 4.2, Eq. 15, the advanced pipeline). Reverted if it
    does not help on held-out images.

    Args:
        images: see :class:`MeanCorrection`.
    """

    kind: Literal["potential_correction"] = "potential_correction"
    parameter = "initial_potential"
    by_neuron = True

    def correct(self, neuron: Neuron, mean: Tensor, target: Tensor, steps: int) -> None:
        """Add the missing output, in units of θ, to the initial potential."""
        theta = along_channels(neuron.amplitude, mean.dim())
        rise = torch.where(theta.isinf(), 0.0, steps * (target - mean.double().mean(0)) / theta)
        present = along_channels(cast(Tensor, neuron.initial_potential), mean.dim())
        neuron.set(initial_potential=(present + rise).to(mean.dtype))


def _add_bias(neuron: Neuron, bias: Tensor) -> None:
    """Add a constant bias [C] to the bias of the neurons, except of silent channels."""
    bias = torch.where(neuron.amplitude.isinf(), 0.0, bias)
    present = cast("Tensor | None", neuron.bias)
    neuron.set(bias=bias if present is None else present + bias)
