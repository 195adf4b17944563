"""``rheobase convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, show_progress
from rheobase.cli.describe import network_document, show_conversion
from rheobase.cli.output import check_output, measure, save
from rheobase.cli.saved import Model, read_model
from rheobase.data import readers as data
from rheobase.methods._convert import convert as convert_network
from rheobase.neurons.fused import set_fusion


@command
def convert(
    model: Model,
    data_spec: Annotated[str, typer.Option("--data", help=f"Calibration images (never test images): {options.SPEC}.")],
    out: Annotated[Path, typer.Option(help="Folder to save the spiking network in.")],
    checkpoint: options.Checkpoint = None,
    folder: options.Folder = None,
    test: options.TestData = None,
    test_folder: options.TestFolder = None,
    method: Annotated[str | None, typer.Option(help="Conversion method (default RateCoding).")] = None,
    timesteps: Annotated[int | None, typer.Option(help="T (default: the method's own).")] = None,
    option: options.Option = None,
    recipe_file: Annotated[
        Path | None, typer.Option("--recipe", help="YAML recipe, instead of the three above.")
    ] = None,
    max_pool: options.MaxPool = options.MaxPooling.refuse,
    images: options.Images = 512,
    seed: Annotated[int, typer.Option(help="Chooses the calibration images and splits them.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a network saved in --out.")] = False,
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
    """Convert a trained network, save it, and measure it on test images if there are any."""
    recipe = options.read_recipe(recipe_file, method, timesteps, option or [])
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    test_source = options.read_test_source(data_spec, folder, test, test_folder)
    options.check_execution(execution, recipe, test_source)
    check_output(out, overwrite)
    set_fusion(fuse.value)
    trained, preprocessing = read_model(model, checkpoint, data_spec, preprocessing)
    shuffle = None if options.is_function(data_spec) else seed
    calibration = data.load(data_spec, folder=folder, preprocessing=preprocessing, seed=shuffle)
    test_loader = test_source and data.load(test_source[0], folder=test_source[1], preprocessing=preprocessing)
    network = convert_network(
        trained,
        recipe,
        calibration=calibration,
        max_pool=max_pool.value,
        num_calibration_images=images,
        seed=seed,
        progress=show_progress(),
    )
    network.provenance.calibration["preprocessing"] = None if shuffle is None else options.plain_values(preprocessing)
    save(network, out, overwrite)
    evaluation = None if test_loader is None else measure(network, test_loader, execution, out)
    document = {**network_document(network, str(out)), "evaluation": evaluation and evaluation.to_json()}
    answer(document, as_json, lambda console: show_conversion(network, out, evaluation, console))
