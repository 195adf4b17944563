"""``rheobase cost``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.core.errors import DataError
from rheobase.core.yaml_text import read_yaml
from rheobase.measure._energy import COSTS, Costs, energy
from rheobase.measure._latency import latency
from rheobase.measure._traffic import MEMORIES, read_memory, traffic_of


@command
def cost(
    network_folder: options.Saved,
    reading: options.Reading,
    running: options.Running,
    data: Annotated[str | None, Option(help=f"Images to count spikes on: {options.SPEC}.")] = None,
    timesteps: options.Steps = None,
    costs: Annotated[
        str, Option(help=f"{', '.join(COSTS)}, or a YAML file with name, mac, ac (and product) in picojoules.")
    ] = "fp32-45nm",
    spike_rate: Annotated[
        float | None, Option(help="Instead of --data: spikes that each neuron emits in all T steps.")
    ] = None,
    graded_spikes: options.GradedSpikes = "additions",
    memory: Annotated[str, Option(help=f"Energy of moving a byte: {', '.join(MEMORIES)}.")] = "sram-1mb-45nm",
) -> Answer:
    """Count latency, operations, energy and memory traffic of a saved spiking network and its analog one."""
    images = None if data is None else reading.of(data)
    table = Costs.model_validate(read_yaml(Path(costs))) if costs.endswith((".yaml", ".yml")) else costs
    prices = read_memory(memory)
    network = running.load(network_folder)
    when = latency(network, timesteps)
    if images is not None:
        images = images.seen_by(network)
    elif reading != options.Reading():
        raise DataError("is missing", where="--data", remedy="give the images that --folder and preprocessing apply to")
    elif running.execution != "auto":
        raise DataError("has no effect without --data", where="--execution", remedy="leave it out")
    elif spike_rate is None:
        raise DataError("is missing", where="--data", remedy="give --data to count spikes, or --spike-rate")
    samples = None if images is None else images.read()
    spent = energy(
        network,
        samples,
        timesteps=timesteps,
        costs=table,
        spike_rate=spike_rate,
        graded_spikes=graded_spikes,
        progress=show_progress(),
    )

    moved = traffic_of(network, spent, prices)

    def show(console: Console) -> None:
        when.print(console)
        spent.print(console)
        moved.print(console)

    used = images and images.described()
    measured = {"latency": when, "energy": spent, "traffic": moved}
    document = {"folder": str(network_folder), "preprocessing": used, **measured}
    return Answer(document, show)
