"""``rheobase convert``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.cli.output import check_output, network_document, save_and_measure, show_conversion
from rheobase.methods._convert import convert as convert_network


@command
def convert(
    model: options.Model,
    data: options.CalibrationData,
    out: Annotated[Path, Option(help="Folder to save the spiking network in.")],
    reading: options.Reading,
    testing: options.TestImages,
    method: options.Method,
    conversion: options.Conversion,
    placement: options.Placement,
    running: options.Running,
    checkpoint: options.Checkpoint = None,
    timesteps: Annotated[int | None, Option(help="Number of time-steps T (default: that of the method).")] = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Convert a trained network, save it, and evaluate it if test images are given."""
    recipe = method.read("RateCoding", timesteps)
    images = reading.of(data)
    running.check(recipe, testing.source(images))
    check_output(out, overwrite)
    trained, images = options.read_model(model, checkpoint, images)
    test = testing.source(images)
    samples, test_samples = images.read(seed), None if test is None else test.read()
    network = convert_network(
        trained,
        recipe,
        calibration=samples,
        seed=seed,
        progress=show_progress(),
        **asdict(conversion),
        **asdict(placement),
    )
    evaluation = save_and_measure(network, out, overwrite, images, test_samples, running.execution)
    document = {**network_document(network, str(out)), "evaluation": evaluation}
    return Answer(document, lambda console: show_conversion(network, out, evaluation, console))
