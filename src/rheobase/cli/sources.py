"""Sources of networks and images: functions, files and saved networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from rheobase.cli.behaviour import note
from rheobase.cli.options import Reading, Running
from rheobase.core import user_code
from rheobase.core.errors import ModelError
from rheobase.core.results import plain_values
from rheobase.data import readers
from rheobase.data.readers import Preprocessing
from rheobase.exchange import checkpoints, store
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.fused import set_fusion


def is_folder(model: str) -> bool:
    """True for a folder, False for ``module:function``.

    Raises:
        ModelError: if ``model`` is neither.
    """
    if Path(model).is_dir():
        return True
    if not user_code.names_function(model):
        raise ModelError(
            "is neither an existing folder nor module:function",
            where=model,
            remedy="give a folder that `rheobase convert` wrote, or write my_module:my_function",
        )
    return False


def is_function(data: str) -> bool:
    """True if the data are read by a function, which preprocesses and shuffles them itself."""
    return not Path(data).exists() and user_code.names_function(data)


def read_model(
    model: str, checkpoint: Path | None, data: str, preprocessing: Preprocessing | None
) -> tuple[nn.Module, Preprocessing | None]:
    """Return the network to convert and the preprocessing of its images, by default as stored with the network."""
    if not is_folder(model):
        return checkpoints.load(model, checkpoint), preprocessing
    if checkpoint is not None:
        raise ModelError(f"has no effect on {model}, a saved network", where="--checkpoint", remedy="leave it out")
    network = store.load(model)
    if preprocessing is None and not is_function(data):
        preprocessing = _remembered(network)
    return network, preprocessing


def read_images(
    data: str,
    folder: str | None,
    preprocessing: Preprocessing | None,
    *,
    seed: int | None = None,
    limit: int | None = None,
) -> DataLoader[Any]:
    """Open the images; a seed shuffles images from files, ``limit`` then keeps the first ones."""
    if is_function(data):
        seed = limit = None
    return readers.load(data, folder=folder, preprocessing=preprocessing, seed=seed, limit=limit)


def images_for(
    network: SpikingNetwork, data: str, reading: Reading, preprocessing: Preprocessing | None
) -> tuple[DataLoader[Any], dict[str, Any] | None]:
    """Return the images and their preprocessing: as given, else that of the calibration images, or a function's own."""
    if preprocessing is None and not is_function(data):
        preprocessing = _remembered(network)
    return read_images(data, reading.folder, preprocessing), preprocessing_document(data, preprocessing)


def preprocessing_document(data: str, preprocessing: Preprocessing | None) -> dict[str, Any] | None:
    """Return the preprocessing to store with a network; None if a function preprocesses."""
    return None if is_function(data) else plain_values(preprocessing or Preprocessing())


def load_to_run(folder: Path, running: Running) -> SpikingNetwork:
    """Load a saved network and set its execution.

    Raises:
        RecipeError: if the network does not support the execution.
    """
    set_fusion(running.fuse)
    network = store.load(folder)
    network.execution = running.execution
    _ = network.execution_mode  # raises before anything is measured
    return network


def _remembered(network: SpikingNetwork) -> Preprocessing:
    """The preprocessing of the calibration images."""
    stored = network.provenance.calibration.get("preprocessing")
    if stored is None:
        note("No preprocessing is stored with the network: pixels are divided by 255.")
        return Preprocessing()
    settings = {name: value for name, value in stored.items() if value not in (None, False)}
    shown = ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
    note(f"Preprocessing as stored with the network: {shown}.")
    return Preprocessing(**stored)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
