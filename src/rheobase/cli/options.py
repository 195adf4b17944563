"""Options that commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from rheobase.core import user_code as _imports
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import parse_yaml
from rheobase.data.readers import Preprocessing
from rheobase.methods import Recipe


class Fusion(StrEnum):
    """When the neurons' loop is compiled."""

    auto = "auto"
    always = "always"
    never = "never"


class MaxPooling(StrEnum):
    """What max-pooling becomes."""

    refuse = "refuse"
    gate = "gate"
    average = "average"


class Execution(StrEnum):
    """How a network is run."""

    auto = "auto"
    counts = "counts"
    steps = "steps"


SPEC = "a folder, .tar, .npz, IDX folder, or module:function"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Fuse = Annotated[Fusion, typer.Option(help="Compile the neurons' loop: auto (when a run proves long), always, never.")]
Execute = Annotated[
    Execution,
    typer.Option(
        "--execution",
        help="Evaluate by the simulation (steps), the closed form on time-means (counts), or auto: the latter where "
        "every neuron has one.",
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="Trained weights: .safetensors, .pt, .pth or .bin.")]
Folder = Annotated[str | None, typer.Option(help="Part of the data to read, such as train or test.")]
Steps = Annotated[int | None, typer.Option(help="T (default: the one it was converted for).")]
Size = Annotated[int | None, typer.Option(help="Resize the short side to so many pixels.")]
Crop = Annotated[int | None, typer.Option(help="Keep a centred square of so many pixels.")]
Mean = Annotated[str | None, typer.Option(help="Subtracted from each channel after scaling, as 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Divides each channel after that, as 0.229,0.224,0.225.")]
Scale = Annotated[float | None, typer.Option(help="The pixel value that becomes 1 (default 255).")]
Grayscale = Annotated[bool, typer.Option("--grayscale", help="Decode image files to one channel.")]
TestData = Annotated[str | None, typer.Option("--test", help=f"Test images, to evaluate at T = 1, 2, 4, ...: {SPEC}.")]
TestFolder = Annotated[str | None, typer.Option(help="Part of the test data to read; alone: a part of --data.")]
Option = Annotated[list[str] | None, typer.Option(help="key=value for the method; may be repeated.")]
MaxPool = Annotated[MaxPooling, typer.Option(help="What max-pooling becomes.")]
Images = Annotated[int, typer.Option(min=1, help="How many calibration images to use at most.")]


def is_function(spec: str) -> bool:
    """Whether the data come from a function, which does its own preprocessing and shuffling."""
    return not Path(spec).exists() and _imports.names_function(spec)


def read_preprocessing(
    size: int | None,
    crop: int | None,
    mean: str | None,
    std: str | None,
    scale: float | None,
    grayscale: bool,
) -> Preprocessing | None:
    """None when no option was given."""
    given: dict[str, Any] = {
        "size": size,
        "crop": crop,
        "mean": None if mean is None else numbers(mean, float, "--mean"),
        "std": None if std is None else numbers(std, float, "--std"),
        "scale": scale,
        "grayscale": grayscale or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Preprocessing(**given) if given else None


def plain_values(preprocessing: Preprocessing | None) -> dict[str, Any]:
    """As JSON has it."""
    values = asdict(preprocessing or Preprocessing())
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


N = TypeVar("N", int, float)


def numbers(text: str, kind: Callable[[str], N], where: str, example: str | None = None) -> tuple[N, ...]:
    """Numbers with commas between."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = example or ("3,32,32" if kind is int else "0.5,0.5,0.5")
        raise DataError(
            f"is {text!r}", where=where, remedy=f"give numbers with commas between, such as {example}"
        ) from None


def read_recipe(
    file: Path | None, method: str | None, timesteps: int | None, options: list[str], default: str = "RateCoding"
) -> Recipe:
    """The recipe of a file, or of a method's name and its options."""
    if file is not None:
        given = [
            name
            for name, value in (
                ("--method", method),
                ("--timesteps", timesteps),
                ("--option", options or None),
            )
            if value is not None
        ]
        if given:
            raise RecipeError(
                f"cannot be combined with {' and '.join(given)}",
                where="--recipe",
                remedy="write it into the file",
            )
        return Recipe.load(file)
    values: dict[str, Any] = {} if timesteps is None else {"timesteps": timesteps}
    values |= key_values(options, "--option", "threshold=max", taken=("method", *values))
    return Recipe.from_dict({"method": method or default, **values})


def key_values(texts: list[str], where: str, example: str, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an option that is given as key=value, perhaps several times, says."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise RecipeError(f"is {text!r}", where=where, remedy=f"write it as key=value, such as {example}")
        if key in taken or key in values:
            raise RecipeError("is given twice", where=f"{where} {key}", remedy="give it once")
        values[key] = parse_yaml(value, f"{where} {key}")
    return values


def check_execution(execution: Execution, recipe: Recipe, test_source: object) -> None:
    """Refuse, before the long work, an execution that the recipe's neurons do not have."""
    if execution is not Execution.auto and test_source is None:
        raise DataError("has no effect without test images", where="--execution", remedy="leave it out, or give --test")
    if execution is Execution.counts and not recipe.neuron.builds.closed_form:
        raise RecipeError(
            f"is counts, and the neurons of {recipe.name} have no closed form",
            where="--execution",
            remedy="use auto or steps",
        )


def read_test_source(
    data_spec: str, folder: str | None, test: str | None, test_folder: str | None
) -> tuple[str, str | None] | None:
    """What to test on, and which part of it; None when no option was given."""
    if test is None and test_folder is None:
        return None
    source = (test or data_spec, test_folder)
    if source == (data_spec, folder):
        raise DataError(
            "names the calibration images again, on which results look better than they are",
            where="--test",
            remedy="give other images, for instance with --test-folder",
        )
    return source
