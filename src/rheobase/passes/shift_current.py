"""A constant current added to the input current: the shift of RTS and SNN Calibration."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.data.calibration_data import CalibrationData
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable


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
        changes = Changes()
        for site in network.sites:
            neuron = settable(network, site, "bias", streaming=True)
            theta = neuron.amplitude.expand(site.channels)
            add_bias(neuron, torch.where(theta.isinf(), 0.0, -self.shift * theta / network.steps_of(site.name)))
            changes.changed[site.name] = ["bias"]
        return changes


def add_bias(neuron: Neuron, bias: Tensor) -> None:
    """Add a constant bias [C] to the bias of the neurons."""
    present = cast("Tensor | None", neuron.bias)
    neuron.set(bias=bias if present is None else present + bias)
