"""``rheobase evaluate``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.cli.output import show_evaluation
from rheobase.measure._evaluate import evaluate as evaluate_network


@command
def evaluate(
    network_folder: options.Saved,
    data: options.TestData,
    reading: options.Reading,
    running: options.Running,
    choosing: options.ValidationImages,
    timesteps: Annotated[
        str | None, Option(help="Numbers of time-steps, as 1,2,4,8 (default: 1, 2, 4, ... T).")
    ] = None,
    task: options.Task = None,
    early_exit: options.EarlyExit = False,
) -> Answer:
    """Compare a saved spiking network with its analog network on test images."""
    steps = None if timesteps is None else options.numbers(timesteps, int, "--timesteps")
    images = reading.of(data)
    network = running.load(network_folder)
    images = images.seen_by(network)
    chosen_on = choosing.source(images)
    evaluation = evaluate_network(
        network,
        images.read(),
        steps,
        task=task,
        early_exit=early_exit,
        validation=None if chosen_on is None else chosen_on.read(),
        progress=show_progress(),
    )
    document = {
        "folder": str(network_folder),
        "preprocessing": images.described(),
        "execution": network.execution_mode,
        "evaluation": evaluation,
    }
    return Answer(document, lambda console: show_evaluation(evaluation, network, console))
