"""Saved networks as arguments: to be converted anew, or measured on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from rheobase.cli import options
from rheobase.cli.behaviour import note
from rheobase.core import user_code as _imports
from rheobase.core.errors import ModelError
from rheobase.data import readers as data
from rheobase.data.batches import Batches
from rheobase.data.readers import Preprocessing
from rheobase.exchange import checkpoints as models
from rheobase.exchange import store
from rheobase.network.spiking_network import SpikingNetwork

Model = Annotated[
    str, typer.Argument(help="module:function that returns the network, or a folder that rheobase saved.")
]


def is_folder(model: str) -> bool:
    """Whether a saved network is meant, not a function.

    Raises:
        ModelError: if it is neither.
    """
    if Path(model).is_dir():
        return True
    if not _imports.names_function(model):
        raise ModelError(
            "is neither a folder that exists nor module:function",
            where=model,
            remedy="give a folder that `rheobase convert` wrote, or write my_module:my_function",
        )
    return False


def read_model(
    model: str, checkpoint: Path | None, data_spec: str, preprocessing: Preprocessing | None
) -> tuple[nn.Module, Preprocessing | None]:
    """The network to convert, and how its images are preprocessed: a saved one remembers that."""
    if not is_folder(model):
        return models.load(model, checkpoint), preprocessing
    if checkpoint is not None:
        raise ModelError(f"has no effect on {model}, a saved network", where="--checkpoint", remedy="leave it out")
    network = store.load(model)
    if preprocessing is None and not options.is_function(data_spec):
        preprocessing = _remembered(network)
    return network, preprocessing


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
