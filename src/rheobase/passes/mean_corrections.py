"""The common loop of passes that correct the time-mean output layer by layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rheobase.core.progress import track
from rheobase.data.calibration_data import CalibrationData
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.passes.calibration_pass import Changes, settable
from rheobase.passes.held_out import HeldOut
from rheobase.passes.layers import Layer, layers


def correct_layers(
    network: SpikingNetwork,
    data: CalibrationData,
    images: Tensor,
    correct: Callable[[Layer, Tensor], None],
    parameter: str,
    progress: bool,
) -> Changes:
    """Call ``correct`` with each layer and its time-mean output [B, C, ...]; revert all if it did not help."""
    for site in network.sites:
        settable(network, site, parameter, streaming=True)
    check = HeldOut(network, data.held_out)
    for layer in track(
        layers(network, images), f"correcting {parameter.replace('_', ' ')}", show=progress, total=len(network.sites)
    ):
        correct(layer, layer.mean_output(network))
    note = check.keep_better()
    return Changes(check.original.changed(network), [note])
