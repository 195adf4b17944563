"""``rheobase convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.cli.describe import network_document, show_conversion
from rheobase.cli.output import check_output, save_and_measure
from rheobase.cli.sources import preprocessing_document, read_images, read_model
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
    conversion: options.Conversion,
    running: options.Running,
    checkpoint: options.Checkpoint = None,
    timesteps: Annotated[int | None, Option(help="Number of time-steps T (default: that of the method).")] = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Convert a trained network, save it, and evaluate it if test images are given."""
    recipe = method.read("RateCoding", timesteps)
    preprocessing = reading.preprocessing()
    test_source = testing.source(data, reading.folder)
    running.check(recipe, test_source)
    check_output(out, overwrite)
    set_fusion(running.fuse)
    trained, preprocessing = read_model(model, checkpoint, data, preprocessing)
    calibration = read_images(data, reading.folder, preprocessing, seed=seed)
    test = test_source and read_images(*test_source, preprocessing)
    network = convert_network(
        trained,
        recipe,
        calibration=calibration,
        max_pool=conversion.max_pool,
        num_calibration_images=conversion.num_calibration_images,
        seed=seed,
        progress=show_progress(),
    )
    used = preprocessing_document(data, preprocessing)
    evaluation = save_and_measure(network, out, overwrite, used, test, running.execution)
    document = {**network_document(network, str(out)), "evaluation": evaluation}
    return Answer(document, lambda console: show_conversion(network, out, evaluation, console))
