"""A saved network and the images that it is measured on."""

from __future__ import annotations

from typing import Any

from rheobase import data
from rheobase.batches import Batches
from rheobase.cli import options
from rheobase.cli.behaviour import note
from rheobase.data import Preprocessing
from rheobase.network import SpikingNetwork


def images_for(
    network: SpikingNetwork, data_spec: str, folder: str | None, preprocessing: Preprocessing | None
) -> tuple[Batches, dict[str, Any] | None]:
    """The images, and how they were preprocessed: as said, or as the calibration images were, or by their function."""
    if options.is_function(data_spec):
        return data.load(data_spec, folder=folder, preprocessing=preprocessing), None
    if preprocessing is None:
        preprocessing = _remembered(network)
    return data.load(data_spec, folder=folder, preprocessing=preprocessing), options.plain_values(preprocessing)


def _remembered(network: SpikingNetwork) -> Preprocessing:
    """The preprocessing of the calibration images."""
    stored = network.provenance.calibration.get("preprocessing")
    if stored is None:
        note("No preprocessing is stored with the network: pixels are divided by 255.")
        return Preprocessing()
    preprocessing = Preprocessing(**stored)
    settings = {name: value for name, value in stored.items() if value not in (None, False)}
    note(
        "Preprocessing as stored with the network: "
        + ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
        + "."
    )
    return preprocessing


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
