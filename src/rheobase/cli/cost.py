"""``rheobase cost``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, show_progress
from rheobase.cli.describe import show_markdown
from rheobase.cli.saved import images_for
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import read_yaml
from rheobase.exchange import store
from rheobase.measure._energy import energy
from rheobase.measure._latency import latency
from rheobase.measure.costs import COSTS, Costs
from rheobase.neurons.fused import set_fusion


@command
def cost(
    network_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved spiking network.")],
    data_spec: Annotated[str | None, typer.Option("--data", help=f"Images: {options.SPEC}.")] = None,
    folder: options.Folder = None,
    timesteps: options.Steps = None,
    costs: Annotated[
        str, typer.Option(help=f"Energies of operations: {', '.join(COSTS)}, or a YAML file with name, mac, ac ...")
    ] = "fp32-45nm",
    spike_rate: Annotated[
        float | None, typer.Option(help="Instead of --data: spikes of every neuron in all its steps, such as 0.75.")
    ] = None,
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
    """Count latency, operations and energy of a saved spiking network next to the analog network it came from."""
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    table = _read_costs(costs)
    set_fusion(fuse.value)
    network = store.load(network_folder)
    network.execution = execution.value
    _ = network.execution_mode  # refused here, before anything is measured
    when = latency(network, timesteps)
    if data_spec is None:
        if preprocessing is not None or folder is not None:
            raise DataError("is missing", where="--data", remedy="give the images that the other options are about")
        if execution is not options.Execution.auto:
            raise DataError("has no effect without --data", where="--execution", remedy="leave it out")
        if spike_rate is None:
            raise DataError("is needed, or --spike-rate", where="--data", remedy="give images to count spikes on")
        used, spent = None, energy(network, timesteps=timesteps, costs=table, spike_rate=spike_rate)
    else:
        loader, used = images_for(network, data_spec, folder, preprocessing)
        spent = energy(
            network, loader, timesteps=timesteps, costs=table, spike_rate=spike_rate, progress=show_progress()
        )
    document = {
        "folder": str(network_folder),
        "preprocessing": used,
        "latency": when.to_json(),
        "energy": spent.to_json(),
    }

    def show(console: Console) -> None:
        show_markdown(when.to_markdown(), f"{when.method}, T = {when.timesteps}: latency in time-steps", console)
        show_markdown(spent.to_markdown(), "Operations and energy for one image", console)

    answer(document, as_json, show)


def _read_costs(costs: str) -> str | Costs:
    path = Path(costs)
    if path.suffix not in (".yaml", ".yml"):
        return costs
    values = read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise RecipeError("is not a mapping of costs", where=costs, remedy="write name, mac and ac, in picojoules")
    return Costs(**values)
