"""``rheobase inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import yaml
from rich.console import Console
from torch import Tensor
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command
from rheobase.cli.describe import network_document, show_notes, span_of_thresholds
from rheobase.cli.sources import is_folder
from rheobase.core.errors import DataError
from rheobase.core.results import Column, Table
from rheobase.data import readers
from rheobase.data.batches import batches
from rheobase.data.readers import Preprocessing
from rheobase.exchange import checkpoints, store
from rheobase.graph.sites import Site
from rheobase.measure._inspect import inspect as inspect_network
from rheobase.measure._inspect import site_columns
from rheobase.network.spiking_network import SpikingNetwork


@command
def inspect(
    model: options.Model,
    reading: options.Reading,
    checkpoint: options.Checkpoint = None,
    input_shape: Annotated[str | None, Option(help="Shape of one input, as 3,32,32.")] = None,
    data: Annotated[str | None, Option(help=f"Read the input shape from data: {options.SPEC}.")] = None,
) -> Answer:
    """List the sites of a network, its rewrites, and its refusals with their remedies."""
    preprocessing = reading.preprocessing()
    about_data = {"--folder": reading.folder, "preprocessing": preprocessing}
    if is_folder(model):
        given = {"--checkpoint": checkpoint, "--input-shape": input_shape, "--data": data, **about_data}
        _refuse_unused(f"{model}, a saved network", given)
        network = store.load(Path(model))
        return Answer(network_document(network, model), lambda console: _show_network(network, console))
    if data is None:
        _refuse_unused("--input-shape", about_data)
    example = _example(input_shape, data, reading.folder, preprocessing)
    found = inspect_network(checkpoints.load(model, checkpoint), example)
    return Answer(found.to_json(), found.print, code=0 if found.convertible else 1)


def _refuse_unused(where: str, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise DataError(f"has no effect on {where}", where=name, remedy="leave it out")


def _example(
    input_shape: str | None, data: str | None, folder: str | None, preprocessing: Preprocessing | None
) -> Tensor:
    if (input_shape is None) == (data is None):
        raise DataError(
            "is missing" if data is None else "cannot be combined with --data",
            where="--input-shape",
            remedy="give either --input-shape, such as 3,32,32, or --data",
        )
    if data is not None:
        loader = readers.load(data, folder=folder, preprocessing=preprocessing, batch_size=4)
        return next(batches(loader, where=data))[0]
    shape = options.numbers(input_shape or "", int, "--input-shape")
    if min(shape) < 1:
        raise DataError(f"is {input_shape!r}", where="--input-shape", remedy="give sizes of 1 or more")
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _show_network(network: SpikingNetwork, console: Console) -> None:
    def threshold(site: Site) -> str | None:
        span = span_of_thresholds(network, site.index)["threshold"]
        return span and " – ".join(dict.fromkeys(f"{value:.3g}" for value in span))

    columns = site_columns(
        Column("threshold", threshold, align="left"),
        Column("silent", lambda site: span_of_thresholds(network, site.index)["silent_channels"] or None),
    )
    title = f"{network.recipe.get('name', 'spiking network')}, T = {network.timesteps}"
    Table(columns, network.sites, title).print(console)
    console.print(f"Input {'×'.join(map(str, network.graph.input_shape))}. Recipe:")
    console.print(yaml.safe_dump(network.recipe, sort_keys=False).rstrip(), soft_wrap=True)
    show_notes(network, console)
