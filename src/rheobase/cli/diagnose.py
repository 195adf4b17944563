"""``rheobase diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.measure._diagnose import diagnose as diagnose_network


@command
def diagnose(
    network_folder: options.Saved,
    data: options.TestData,
    reading: options.Reading,
    timesteps: options.Steps = None,
    device: options.Device = None,
    plot: Annotated[Path | None, Option(help="File for a plot of the errors (.png, .pdf, .svg).")] = None,
) -> Answer:
    """Decompose the error of every site of a saved spiking network into its causes."""
    images = reading.of(data)
    network = options.load(network_folder, device)
    images = images.seen_by(network)
    found = diagnose_network(network, images.read(), timesteps=timesteps, progress=show_progress())
    if plot is not None:
        from rheobase.measure.plots import diagnosis_plot

        diagnosis_plot(found, plot)
    document = {"folder": str(network_folder), "preprocessing": images.described(), "diagnosis": found}
    return Answer(document, found.print)
