"""``rheobase inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command
from rheobase.cli.describe import network_document, show_notes, span_of_thresholds
from rheobase.cli.saved import is_folder
from rheobase.core.errors import DataError
from rheobase.data import readers as data
from rheobase.data.batches import batches
from rheobase.data.readers import Preprocessing
from rheobase.exchange import checkpoints as models
from rheobase.exchange import store
from rheobase.measure._inspect import inspect as inspect_network
from rheobase.network.spiking_network import SpikingNetwork


@command
def inspect(
    model: Annotated[str, typer.Argument(help="module:function that returns the network, or a saved folder.")],
    checkpoint: options.Checkpoint = None,
    input_shape: Annotated[str | None, typer.Option(help="Shape of one input, as 3,32,32.")] = None,
    data_spec: Annotated[str | None, typer.Option("--data", help=f"Take the shape from data: {options.SPEC}.")] = None,
    folder: options.Folder = None,
    size: options.Size = None,
    crop: options.Crop = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    grayscale: options.Grayscale = False,
    as_json: options.Json = False,
) -> None:
    """List what would become spiking, what is rewritten, and what is refused and why."""
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    if is_folder(model):
        _refuse_unused(
            f"{model}, a saved network",
            {
                "--checkpoint": checkpoint,
                "--input-shape": input_shape,
                "--data": data_spec,
                "--folder": folder,
                "preprocessing": preprocessing,
            },
        )
        network = store.load(Path(model))
        answer(network_document(network, model), as_json, lambda console: _show_network(network, console))
        return
    if data_spec is None:
        _refuse_unused("--input-shape", {"--folder": folder, "preprocessing": preprocessing})
    example = _example(input_shape, data_spec, folder, preprocessing)
    found = inspect_network(models.load(model, checkpoint), example)
    answer(found.to_json(), as_json, found.print)
    if not found.convertible:
        raise typer.Exit(1)


def _refuse_unused(where: str, options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise DataError(f"has no effect on {where}", where=name, remedy="leave it out")


def _example(
    input_shape: str | None, data_spec: str | None, folder: str | None, preprocessing: Preprocessing | None
) -> Tensor:
    if (input_shape is None) == (data_spec is None):
        raise DataError(
            "the input's size is needed once",
            where="inspect",
            remedy="give either --input-shape 3,32,32 or --data",
        )
    if data_spec is not None:
        loader = data.load(data_spec, folder=folder, preprocessing=preprocessing, batch_size=4)
        return next(batches(loader, where=data_spec))[0]
    shape = options.numbers(input_shape or "", int, "--input-shape")
    if min(shape) < 1:
        raise DataError(f"is {input_shape}", where="--input-shape", remedy="give sizes of 1 or more")
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _show_network(network: SpikingNetwork, console: Console) -> None:
    table = Table(title=f"{network.recipe.get('name', 'spiking network')}, T = {network.timesteps}")
    for column in ("#", "site", "shape", "threshold", "silent", "from", "to"):
        table.add_column(column, overflow="fold")
    for site in network.sites:
        found = span_of_thresholds(network, site.index)
        span = found["threshold"]
        low, high = (f"{value:.3g}" for value in span) if span else ("-", "-")
        table.add_row(
            str(site.index),
            site.name,
            "×".join(map(str, site.shape)),
            low if low == high else f"{low} – {high}",
            str(found["silent_channels"] or "-"),
            ", ".join(site.previous) or "input",
            ", ".join(site.next) or "readout",
        )
    console.print(table)
    console.print(f"Input {'×'.join(map(str, network.graph.input_shape))}. Recipe:")
    console.print(yaml.safe_dump(network.recipe, sort_keys=False).rstrip(), soft_wrap=True)
    show_notes(network, console)
