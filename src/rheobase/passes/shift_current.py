"""A shift of the current: the shift term of RTS."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.mean_correction import add_bias


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
            add_bias(neuron, -self.shift * theta / network.steps_of(site.name))
        return Changes({site.name: ["bias"] for site in network.sites})
