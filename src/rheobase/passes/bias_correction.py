"""SNN Calibration, light pipeline: a bias for every channel."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rheobase.neurons import Neuron
from rheobase.passes.mean_correction import MeanCorrection, add_bias


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
        add_bias(neuron, (mean.movedim(1, 0).flatten(1).double().mean(1) - target).to(mean.dtype))
