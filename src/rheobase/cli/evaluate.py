"""``rheobase evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, show_progress
from rheobase.cli.describe import show_evaluation
from rheobase.cli.saved import images_for
from rheobase.exchange import store
from rheobase.measure._evaluate import evaluate as evaluate_network
from rheobase.neurons.fused import set_fusion


@command
def evaluate(
    network_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved spiking network.")],
    data_spec: Annotated[str, typer.Option("--data", help=f"Test images: {options.SPEC}.")],
    folder: options.Folder = None,
    timesteps: Annotated[str | None, typer.Option(help="Step counts, as 1,2,4,8 (default: 1, 2, 4, ... T).")] = None,
    size: options.Size = None,
    crop: options.Crop = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    grayscale: options.Grayscale = False,
    execution: options.Execute = options.Execution.auto,
    fuse: options.Fuse = options.Fusion.auto,
    as_json: options.Json = False,
) -> None:
    """Measure a saved spiking network next to the analog network it came from."""
    steps = None if timesteps is None else options.numbers(timesteps, int, "--timesteps")
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    set_fusion(fuse.value)
    network = store.load(network_folder)
    network.execution = execution.value
    ran_as = network.execution_mode
    loader, used = images_for(network, data_spec, folder, preprocessing)
    evaluation = evaluate_network(network, loader, steps, progress=show_progress())
    document = {
        "folder": str(network_folder),
        "preprocessing": used,
        "execution": ran_as,
        "evaluation": evaluation.to_json(),
    }
    answer(document, as_json, lambda console: show_evaluation(evaluation, network, console))
