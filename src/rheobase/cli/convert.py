"""``rheobase convert``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.cli.output import check_output, network_document, save_and_measure, show_conversion
from rheobase.comparison._within_budget import convert_within_budget
from rheobase.core.errors import RecipeError
from rheobase.methods._convert import convert as convert_network
from rheobase.neurons.fused import set_fusion


@command
def convert(
    model: options.Model,
    data: options.CalibrationData,
    out: Annotated[Path, Option(help="Folder to save the spiking network in.")],
    reading: options.Reading,
    testing: options.TestImages,
    method: options.Method,
    weights: options.Weights,
    conversion: options.Conversion,
    placement: options.Placement,
    running: options.Running,
    timesteps: Annotated[int | None, Option(help="Number of time-steps T (default: that of the method).")] = None,
    budget: options.Budget = None,
    graded_spikes: options.GradedSpikes = "additions",
    task: options.Task = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Convert a trained network, save it, and evaluate it if test images are given.

    With --budget, T and the magnitude of graded spikes are chosen on held-out calibration images (default method:
    Graded).
    """
    limits = options.limits(budget)
    if limits:
        family = method.family("Graded")
        recipe = family(timesteps=1 if timesteps is None else timesteps, magnitude=1)
    else:
        if graded_spikes != "additions":
            raise RecipeError("has no effect without --budget", where="--graded-spikes", remedy="leave it out")
        recipe = method.read("RateCoding", timesteps)
    images = reading.of(data)
    running.check(recipe, testing.source(images))
    set_fusion(running.fuse)
    check_output(out, overwrite)
    trained, images = options.read_model(model, weights, images)
    test = testing.source(images)
    samples, test_samples = images.read(seed), None if test is None else test.read()
    given = {
        "calibration": samples,
        "task": task,
        "seed": seed,
        "progress": show_progress(),
        **asdict(conversion),
        **asdict(placement),
        "device": running.device,
    }
    chosen = None
    if limits:
        given |= {"method": family, "graded_spikes": graded_spikes}
        given |= {} if timesteps is None else {"timesteps": (timesteps,)}
        chosen = convert_within_budget(trained, limits, **given)
    network = convert_network(trained, recipe, **given) if chosen is None else chosen.network
    evaluation = save_and_measure(network, out, overwrite, images, test_samples, running.execution)
    document = {**network_document(network, str(out)), "budget": chosen, "evaluation": evaluation}

    def show(console: Console) -> None:
        if chosen is not None:
            chosen.print(console)
        show_conversion(network, out, evaluation, console)

    return Answer(document, show)
