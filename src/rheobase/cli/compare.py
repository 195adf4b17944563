"""``rheobase compare``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, note, show_progress
from rheobase.cli.settings import read_training
from rheobase.comparison._compare import all_recipes
from rheobase.comparison._compare import compare as compare_methods
from rheobase.comparison.checks import by_name, check_validation
from rheobase.comparison.engine import cluster
from rheobase.comparison.folder import REPORT_FILE
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import read_yaml
from rheobase.methods import Recipe
from rheobase.neurons.fused import set_fusion


@command
def compare(
    model: options.Model,
    data: options.CalibrationData,
    out: Annotated[Path, Option(help="Folder for results.jsonl, report.html, tables and plots.")],
    reading: options.Reading,
    testing: options.TestImages,
    weights: options.Weights,
    conversion: options.Conversion,
    placement: options.Placement,
    choosing: options.ValidationImages,
    methods: Annotated[str | None, Option(help="Methods, for example FTBC,RateCoding (default: all).")] = None,
    recipes: Annotated[Path | None, Option(help="YAML file, one line `name: {method: FTBC, ...}` per recipe.")] = None,
    timesteps: Annotated[str, Option(help="Numbers of time-steps T.")] = "1,2,4,8",
    seeds: Annotated[str, Option(help="Seeds of calibration images, splits and training.")] = "0",
    task: options.Task = None,
    early_exit: options.EarlyExit = False,
    budget: options.Budget = None,
    graded_spikes: options.GradedSpikes = "additions",
    training: Annotated[
        Path | None, Option(help="YAML file with fields of rheobase.Training; required by methods that train.")
    ] = None,
    overwrite: options.Overwrite = False,
    number: Annotated[
        bool, Option("--number", help="If --out has results, write to the next free name: out-2.")
    ] = False,
    fuse: options.Fuse = "auto",
    device: options.Device = None,
    workers: Annotated[int | None, Option(min=1, help="Processes on this machine (default: 1).")] = None,
    dask: Annotated[
        str | None, Option(metavar="ADDRESS", help="Address of a Dask scheduler, whose workers run the conversions.")
    ] = None,
) -> Answer:
    """Compare methods on a trained network: every method, T and seed, in one report.

    Repeat the command to continue an interrupted comparison.
    """
    if overwrite and number:
        raise RecipeError("cannot be combined with --number", where="--overwrite", remedy="give one of them")
    named = by_name(_recipes(methods, recipes))
    limits = options.limits(budget)
    steps, draws = options.numbers(timesteps, int, "--timesteps"), options.numbers(seeds, int, "--seeds")
    validates = choosing != options.ValidationImages()
    if limits:
        check_validation(validates or None)
    if early_exit and not validates:
        raise DataError("are missing", where="validation images for --early-exit", remedy="give --validation")
    set_fusion(fuse)
    network, images = options.read_model(model, weights, reading.of(data))
    test = testing.source(images)
    if test is None:
        raise DataError("is missing", where="--test", remedy="give --test or --test-folder")
    settings = None if training is None else read_training(training, images.preprocessing)
    chosen_on = choosing.source(images)
    if dask is not None and workers is not None:
        raise RecipeError("has no effect with --dask", where="--workers", remedy="leave one of them out")
    with cluster(dask):
        found = compare_methods(
            network,
            named,
            images.read(),
            test.read(),
            steps,
            seeds=draws,
            validation=None if chosen_on is None else chosen_on.read(),
            budget=limits or None,
            graded_spikes=graded_spikes,
            task=task,
            early_exit=early_exit,
            training=settings,
            folder=out,
            on_existing="overwrite" if overwrite else "number" if number else "keep",
            name=model.partition(":")[2] or Path(model).resolve().name,
            command=shlex.join(["rheobase", *sys.argv[1:]]),
            progress=show_progress(),
            **asdict(conversion),
            **asdict(placement),
            workers=workers,
            device=device,
        )
    failed = sum(cell.status == "failed" for cell in found.cells)
    if failed:
        note(f"{failed} of {len(found.cells)} conversions failed. Repeat the command to try them again.")

    def show(console: Console) -> None:
        found.print(console)
        assert found.folder is not None
        console.print(f"Report: {found.folder / REPORT_FILE}.", soft_wrap=True)

    return Answer({"folder": str(found.folder), **found.to_json()}, show)


def _recipes(methods: str | None, file: Path | None) -> list[Recipe] | dict[str, Recipe]:
    """Read recipes by name from a file, or methods with their default options; by default all methods."""
    if file is None:
        known = all_recipes()
        names = [*known] if methods is None else [name.strip() for name in methods.split(",")]
        return [known.get(name) or Recipe.from_method(name) for name in names]
    if methods is not None:
        raise RecipeError(
            "cannot be combined with --methods", where="--recipes", remedy="write the methods into the file"
        )
    values = read_yaml(file)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise RecipeError(
            "is not a mapping of recipes by name",
            where=str(file),
            remedy="write one line such as `scaled: {method: FTBC, scale: true}` for each recipe",
        )
    return {name: _recipe(name, fields, file) for name, fields in values.items()}


def _recipe(name: str, fields: dict[str, Any], file: Path) -> Recipe:
    try:
        return Recipe.from_dict(fields)
    except RecipeError as error:
        raise RecipeError(error.reason, where=f"{file}: {name}: {error.where}", remedy=error.remedy) from None
