"""``rheobase diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, show_progress
from rheobase.cli.describe import show_markdown
from rheobase.cli.saved import images_for
from rheobase.exchange import store
from rheobase.measure._diagnose import diagnose as diagnose_network


@command
def diagnose(
    network_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved spiking network.")],
    data_spec: Annotated[str, typer.Option("--data", help=f"Images: {options.SPEC}.")],
    folder: options.Folder = None,
    timesteps: options.Steps = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the errors into this file (.png, .pdf, .svg).")] = None,
    size: options.Size = None,
    crop: options.Crop = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    grayscale: options.Grayscale = False,
    as_json: options.Json = False,
) -> None:
    """Take the error of every site of a saved spiking network apart."""
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    network = store.load(network_folder)
    loader, used = images_for(network, data_spec, folder, preprocessing)
    found = diagnose_network(network, loader, timesteps=timesteps, progress=show_progress())
    if plot is not None:
        from rheobase.measure.plots import diagnosis_plot

        diagnosis_plot(found, plot)
    document = {"folder": str(network_folder), "preprocessing": used, "diagnosis": found.to_json()}
    title = f"{found.method}, T = {found.timesteps}, {found.images} images: error in % of the mean activation"
    answer(document, as_json, lambda console: show_markdown(found.to_markdown(), title, console))
