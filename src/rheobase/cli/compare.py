"""``rheobase compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, note, show_progress
from rheobase.cli.saved import Model, read_model
from rheobase.cli.settings import read_training
from rheobase.comparison._compare import all_recipes
from rheobase.comparison._compare import compare as compare_methods
from rheobase.comparison.folder import REPORT_FILE, OnExisting
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import read_yaml
from rheobase.data import readers as data
from rheobase.data.batches import Batches
from rheobase.data.readers import Preprocessing
from rheobase.methods import Recipe
from rheobase.neurons.fused import set_fusion

POOL = 4096
"""Calibration images that are read from files where nothing is trained; each seed takes its own from them."""


@command
def compare(
    model: Model,
    data_spec: Annotated[str, typer.Option("--data", help=f"Training images (never test images): {options.SPEC}.")],
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl, report.html, tables and plots.")],
    checkpoint: options.Checkpoint = None,
    folder: options.Folder = None,
    test: Annotated[str | None, typer.Option("--test", help=f"Test images: {options.SPEC}.")] = None,
    test_folder: options.TestFolder = None,
    validation: Annotated[
        str | None, typer.Option(help=f"Images to choose a method by, for --budget: {options.SPEC}.")
    ] = None,
    validation_folder: Annotated[
        str | None, typer.Option(help="Part of the validation data to read; alone: a part of --data.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Such as FTBC,RateCoding (default: all).")] = None,
    recipes_file: Annotated[
        Path | None, typer.Option("--recipes", help="YAML file, a line `name: {method: FTBC, ...}` for each.")
    ] = None,
    timesteps: Annotated[str, typer.Option(help="The numbers of time-steps.")] = "1,2,4,8",
    seeds: Annotated[str, typer.Option(help="Of calibration images and all that is drawn.")] = "0",
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="latency=8 (time-steps) or energy=0.5 (of the analog network's): name the most accurate within it; "
            "may be repeated."
        ),
    ] = None,
    training_file: Annotated[
        Path | None,
        typer.Option(
            "--training", help="YAML file with fields of rheobase.Training, for methods that need a quantised network."
        ),
    ] = None,
    max_pool: options.MaxPool = options.MaxPooling.refuse,
    images: options.Images = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again in a folder that has results.")] = False,
    number: Annotated[
        bool, typer.Option("--number", help="If --out has results, take the next free name, such as out-2.")
    ] = False,
    size: options.Size = None,
    crop: options.Crop = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    grayscale: options.Grayscale = False,
    fuse: options.Fuse = options.Fusion.auto,
    as_json: options.Json = False,
) -> None:
    """Compare methods on a trained network: every method, T and seed, in one report.

    An interrupted comparison goes on when the same command is given again.
    """
    if overwrite and number:
        raise RecipeError("cannot be combined with --number", where="--overwrite", remedy="give one of them")
    on_existing: OnExisting = "overwrite" if overwrite else "number" if number else "keep"
    recipes = read_recipes(methods, recipes_file)
    limits = read_budget(budget or [])
    steps = options.numbers(timesteps, int, "--timesteps", example="1,2,4,8")
    numbers = options.numbers(seeds, int, "--seeds", example="0,1,2")
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    test_source = options.read_test_source(data_spec, folder, test, test_folder)
    if test_source is None:
        raise DataError("are needed", where="test images", remedy="give --test or --test-folder")
    chosen_by = None
    if validation is not None or validation_folder is not None:
        chosen_by = (validation or data_spec, validation_folder)
    if limits and chosen_by is None:
        raise DataError(
            "needs validation images: the method is chosen by them, never by test images",
            where="--budget",
            remedy="give --validation or --validation-folder",
        )
    set_fusion(fuse.value)
    network, preprocessing = read_model(model, checkpoint, data_spec, preprocessing)
    training = None if training_file is None else read_training(training_file, {}, None, preprocessing)
    limit = None if training is not None else max(POOL, images)
    found = compare_methods(
        network,
        recipes,
        _read(data_spec, folder, preprocessing, limit, shuffle=True),
        _read(*test_source, preprocessing),
        steps,
        seeds=numbers,
        validation=None if chosen_by is None else _read(*chosen_by, preprocessing),
        budget=limits or None,
        training=training,
        folder=out,
        on_existing=on_existing,
        max_pool=max_pool.value,
        num_calibration_images=images,
        name=model.partition(":")[2] or Path(model).resolve().name,
        progress=show_progress(),
    )
    failed = sum(cell.status == "failed" for cell in found.cells)
    if failed:
        note(f"{failed} of {len(found.cells)} conversions failed; the same command tries them again.")

    def show(console: Console) -> None:
        found.print(console)
        assert found.folder is not None
        console.print(f"Report: {found.folder / REPORT_FILE}.", soft_wrap=True)

    answer({"folder": str(found.folder), **found.to_json()}, as_json, show)


def _read(
    spec: str, folder: str | None, preprocessing: Preprocessing | None, limit: int | None = None, shuffle: bool = False
) -> Batches:
    """The images in memory; of files the first of a shuffle, functions say themselves what they give."""
    if options.is_function(spec):
        loader = data.load(spec, folder=folder, preprocessing=preprocessing)
    else:
        seed = 0 if shuffle else None
        loader = data.load(spec, folder=folder, preprocessing=preprocessing, limit=limit, seed=seed)
    return data.read_all(loader, progress=show_progress())


def read_recipes(methods: str | None, file: Path | None) -> dict[str, Recipe]:
    """The recipes of a file, or methods by name with their default options; all where neither is given.

    Raises:
        RecipeError: if both are given, a method is unknown, or the file does not hold recipes by name.
    """
    if file is None:
        known = all_recipes()
        if methods is None:
            return known
        names = [name.strip() for name in methods.split(",")]
        found: dict[str, Recipe] = {}
        for name in names:
            recipe = known.get(name) or Recipe.from_dict({"method": name})
            if recipe.name in found:
                raise RecipeError(f"names {name} twice", where="--methods", remedy="name it once")
            found[recipe.name] = recipe
        return found
    if methods is not None:
        raise RecipeError("cannot be combined with --methods", where="--recipes", remedy="write them into the file")
    values = read_yaml(file)
    if (
        not isinstance(values, dict)
        or not values
        or not all(isinstance(name, str) and isinstance(fields, dict) for name, fields in values.items())
    ):
        raise RecipeError(
            "is not a mapping of recipes by name",
            where=str(file),
            remedy="write a line such as `scaled: {method: FTBC, scale: true}` for each",
        )
    return {name: _recipe(name, fields, file) for name, fields in values.items()}


def _recipe(name: str, fields: dict[str, Any], file: Path) -> Recipe:
    try:
        return Recipe.from_dict(fields)
    except RecipeError as error:
        raise RecipeError(error.reason, where=f"{file}: {name}: {error.where}", remedy=error.remedy) from None


def read_budget(texts: list[str]) -> dict[str, float]:
    """``latency=8`` and ``energy=0.5`` as numbers.

    Raises:
        RecipeError: if one is written otherwise, or given twice.
    """
    found: dict[str, float] = {}
    for text in ",".join(texts).split(",") if texts else ():
        name, _, value = text.strip().partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if name not in ("latency", "energy") or name in found or not 0 < limit < float("inf"):
            raise RecipeError(
                f"is {text.strip()!r}",
                where="--budget",
                remedy="give latency=8 (time-steps) or energy=0.5 (of the analog network's), each once",
            )
        found[name] = limit
    return found
