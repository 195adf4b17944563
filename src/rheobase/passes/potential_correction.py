"""SNN Calibration, advanced pipeline: an initial potential for every neuron."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from rheobase.neurons import Neuron
from rheobase.passes.mean_correction import MeanCorrection
from rheobase.signals import along_channels


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
