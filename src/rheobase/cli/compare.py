"""``rheobase compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, note, show_progress
from rheobase.cli.settings import read_training
from rheobase.cli.sources import read_images, read_model
from rheobase.comparison._compare import all_recipes
from rheobase.comparison._compare import compare as compare_methods
from rheobase.comparison.folder import REPORT_FILE, OnExisting
from rheobase.comparison.grid import Comparison
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import read_yaml
from rheobase.data import readers
from rheobase.data.batches import Batches
from rheobase.data.readers import Preprocessing
from rheobase.methods import Recipe
from rheobase.neurons.fused import set_fusion

POOL = 4096
"""Number of calibration images read from files if no method is trained; each seed draws its own from them."""


@dataclass(frozen=True)
class Question:
    """Methods, T and seeds that are compared."""

    methods: Annotated[str | None, Option(help="Methods, for example FTBC,RateCoding (default: all).")] = None
    recipes: Annotated[Path | None, Option(help="YAML file, one line `name: {method: FTBC, ...}` per recipe.")] = None
    timesteps: Annotated[str, Option(help="Numbers of time-steps T.")] = "1,2,4,8"
    seeds: Annotated[str, Option(help="Seeds of calibration images, splits and training.")] = "0"
    budget: Annotated[
        list[str] | None,
        Option(
            help="latency=8 (steps) or energy=0.5 (of the ANN's): choose the most accurate method within these limits; "
            "may be repeated."
        ),
    ] = None


@dataclass(frozen=True)
class ValidationImages:
    """Images on which a method is chosen for ``--budget``."""

    validation: Annotated[str | None, Option(help=f"Validation images, required by --budget: {options.SPEC}.")] = None
    validation_folder: Annotated[
        str | None, Option(help="Part of --validation to read, or of --data if --validation is not given.")
    ] = None

    def source(self, data: str, budget: object) -> tuple[str, str | None] | None:
        """Validation data and the part of them to read; None if neither option is given.

        Raises:
            DataError: if a budget is given without validation images.
        """
        if self.validation is not None or self.validation_folder is not None:
            return self.validation or data, self.validation_folder
        if budget:
            raise DataError(
                "needs validation images, because a choice on test images would bias the results",
                where="--budget",
                remedy="give --validation or --validation-folder",
            )
        return None


@command
def compare(
    model: options.Model,
    data: options.CalibrationData,
    out: Annotated[Path, Option(help="Folder for results.jsonl, report.html, tables and plots.")],
    reading: options.Reading,
    testing: options.TestImages,
    choosing: ValidationImages,
    question: Question,
    conversion: options.Conversion,
    checkpoint: options.Checkpoint = None,
    training: Annotated[
        Path | None, Option(help="YAML file with fields of rheobase.Training; required by methods that train.")
    ] = None,
    overwrite: options.Overwrite = False,
    number: Annotated[
        bool, Option("--number", help="If --out has results, write to the next free name: out-2.")
    ] = False,
    fuse: options.Fuse = "auto",
) -> Answer:
    """Compare methods on a trained network: every method, T and seed, in one report.

    Repeat the command to continue an interrupted comparison.
    """
    on_existing = _on_existing(overwrite, number)
    recipes = read_recipes(question.methods, question.recipes)
    budget = read_budget(question.budget or [])
    timesteps = options.numbers(question.timesteps, int, "--timesteps", example="1,2,4,8")
    seeds = options.numbers(question.seeds, int, "--seeds", example="0,1,2")
    preprocessing = reading.preprocessing()
    test = testing.source(data, reading.folder)
    if test is None:
        raise DataError("is missing", where="--test", remedy="give --test or --test-folder")
    validation = choosing.source(data, budget)
    set_fusion(fuse)
    network, preprocessing = read_model(model, checkpoint, data, preprocessing)
    settings = None if training is None else read_training(training, {}, None, preprocessing)
    wanted = conversion.num_calibration_images
    pool = None if settings is not None else max(POOL, wanted)
    found = compare_methods(
        network,
        recipes,
        _read(data, reading.folder, preprocessing, limit=pool, seed=0),
        _read(*test, preprocessing),
        timesteps,
        seeds=seeds,
        validation=None if validation is None else _read(*validation, preprocessing),
        budget=budget or None,
        training=settings,
        folder=out,
        on_existing=on_existing,
        max_pool=conversion.max_pool,
        num_calibration_images=wanted,
        name=model.partition(":")[2] or Path(model).resolve().name,
        progress=show_progress(),
    )
    return _answer(found)


def _on_existing(overwrite: bool, number: bool) -> OnExisting:
    if overwrite and number:
        raise RecipeError("cannot be combined with --number", where="--overwrite", remedy="give one of them")
    return "overwrite" if overwrite else "number" if number else "keep"


def _read(data: str, folder: str | None, preprocessing: Preprocessing | None, **how: int | None) -> Batches:
    """Read all images into memory."""
    return readers.read_all(read_images(data, folder, preprocessing, **how), progress=show_progress())


def _answer(found: Comparison) -> Answer:
    failed = sum(cell.status == "failed" for cell in found.cells)
    if failed:
        note(f"{failed} of {len(found.cells)} conversions failed. Repeat the command to try them again.")

    def show(console: Console) -> None:
        found.print(console)
        assert found.folder is not None
        console.print(f"Report: {found.folder / REPORT_FILE}.", soft_wrap=True)

    return Answer({"folder": str(found.folder), **found.to_json()}, show)


def read_recipes(methods: str | None, file: Path | None) -> dict[str, Recipe]:
    """Read recipes by name from a file, or methods with their default options; by default all methods.

    Raises:
        RecipeError: if both are given, a method is unknown, or the file is not a mapping of recipes by name.
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
        raise RecipeError(
            "cannot be combined with --methods", where="--recipes", remedy="write the methods into the file"
        )
    values = read_yaml(file)
    if (
        not isinstance(values, dict)
        or not values
        or not all(isinstance(name, str) and isinstance(fields, dict) for name, fields in values.items())
    ):
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


def read_budget(texts: list[str]) -> dict[str, float]:
    """Parse limits such as ``latency=8`` and ``energy=0.5``.

    Raises:
        RecipeError: if a limit is not of this form, or given twice.
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
