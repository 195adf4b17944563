"""``rheobase cost``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.cli.sources import images_for, load_to_run
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import read_yaml
from rheobase.measure._energy import COSTS, Costs, energy
from rheobase.measure._latency import latency


@command
def cost(
    network_folder: options.Saved,
    reading: options.Reading,
    running: options.Running,
    data: Annotated[str | None, Option(help=f"Images to count spikes on: {options.SPEC}.")] = None,
    timesteps: options.Steps = None,
    costs: Annotated[
        str, Option(help=f"{', '.join(COSTS)}, or a YAML file with name, mac and ac in picojoules.")
    ] = "fp32-45nm",
    spike_rate: Annotated[
        float | None, Option(help="Instead of --data: spikes that each neuron emits in all T steps.")
    ] = None,
) -> Answer:
    """Count latency, operations and energy of a saved spiking network and of its analog network."""
    preprocessing = reading.preprocessing()
    table = _read_costs(costs)
    network = load_to_run(network_folder, running)
    when = latency(network, timesteps)
    images, used = None, None
    if data is not None:
        images, used = images_for(network, data, reading, preprocessing)
    elif preprocessing is not None or reading.folder is not None:
        raise DataError("is missing", where="--data", remedy="give the images that --folder and preprocessing apply to")
    elif running.execution != "auto":
        raise DataError("has no effect without --data", where="--execution", remedy="leave it out")
    elif spike_rate is None:
        raise DataError("is missing", where="--data", remedy="give --data to count spikes, or --spike-rate")
    spent = energy(network, images, timesteps=timesteps, costs=table, spike_rate=spike_rate, progress=show_progress())

    def show(console: Console) -> None:
        when.print(console)
        spent.print(console)

    document = {"folder": str(network_folder), "preprocessing": used, "latency": when, "energy": spent}
    return Answer(document, show)


def _read_costs(costs: str) -> str | Costs:
    path = Path(costs)
    if path.suffix not in (".yaml", ".yml"):
        return costs
    values = read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise RecipeError("is not a mapping of costs", where=costs, remedy="write name, mac and ac in picojoules")
    return Costs(**values)
