"""Options that several commands share. A dataclass is a group: one option per field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from typer import Argument, Option

from rheobase.core.errors import DataError, RecipeError
from rheobase.core.yaml_text import parse_yaml
from rheobase.data.readers import Preprocessing
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.methods import Recipe
from rheobase.neurons.fused import Fusion

SPEC = "a folder, .tar, .npz, IDX folder, or module:function"
Execution = Literal["auto", "counts", "steps"]
NUM_CALIBRATION_IMAGES = 1024
"""Default of every command."""

Model = Annotated[str, Argument(help="module:function that returns the network, or folder of a saved network.")]
Saved = Annotated[Path, Argument(metavar="DIR", help="Folder of a saved spiking network.")]
Checkpoint = Annotated[Path | None, Option(help="Trained weights: .safetensors, .pt, .pth or .bin.")]
CalibrationData = Annotated[str, Option("--data", help=f"Calibration or training images, never test images: {SPEC}.")]
TestData = Annotated[str, Option("--data", help=f"Images to measure on: {SPEC}.")]
Steps = Annotated[int | None, Option(help="Number of time-steps T (default: that of the conversion).")]
Seed = Annotated[int, Option(help="Seed of calibration images, splits, batch order and augmentation.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output of an earlier call.")]
Fuse = Annotated[Fusion, Option(help="Compile the neurons' loop over time: auto (long runs only), always, never.")]


@dataclass(frozen=True)
class Reading:
    """How the images of ``--data`` are read."""

    folder: Annotated[str | None, Option(help="Part of the data to read, such as train or test.")] = None
    size: Annotated[int | None, Option(help="Resize the short side to this number of pixels.")] = None
    crop: Annotated[int | None, Option(help="Crop to a centred square of this side in pixels.")] = None
    mean: Annotated[str | None, Option(help="Channel means, subtracted after scaling, as 0.485,0.456,0.406.")] = None
    std: Annotated[str | None, Option(help="Channel deviations, divided by after that, as 0.229,0.224,0.225.")] = None
    scale: Annotated[float | None, Option(help="Pixel value that becomes 1 (default 255).")] = None
    grayscale: Annotated[bool, Option("--grayscale", help="Decode image files to one channel.")] = False

    def preprocessing(self) -> Preprocessing | None:
        """Return the preprocessing; None if no option is given."""
        given: dict[str, Any] = {
            "size": self.size,
            "crop": self.crop,
            "mean": None if self.mean is None else numbers(self.mean, float, "--mean"),
            "std": None if self.std is None else numbers(self.std, float, "--std"),
            "scale": self.scale,
            "grayscale": self.grayscale or None,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return Preprocessing(**given) if given else None


@dataclass(frozen=True)
class TestImages:
    """Images to test on."""

    test: Annotated[str | None, Option(help=f"Test images: {SPEC}.")] = None
    test_folder: Annotated[str | None, Option(help="Part of --test to read, or of --data if --test is not given.")] = (
        None
    )

    def source(self, data: str, folder: str | None) -> tuple[str, str | None] | None:
        """Test data and the part of them to read; None if neither option is given.

        Raises:
            DataError: if the test images are the calibration images.
        """
        if self.test is None and self.test_folder is None:
            return None
        source = (self.test or data, self.test_folder)
        if source == (data, folder):
            raise DataError(
                "names the calibration images, on which the measured accuracy would be too high",
                where="--test",
                remedy="give other images, for instance with --test-folder",
            )
        return source


@dataclass(frozen=True)
class Method:
    """A method and its options, or a file with both."""

    method: Annotated[str | None, Option(help="Method, such as FTBC (default: RateCoding; for training, Pascal).")] = (
        None
    )
    option: Annotated[list[str] | None, Option(help="Option of the method as key=value; may be repeated.")] = None
    recipe: Annotated[Path | None, Option(help="YAML recipe, instead of a method and its options.")] = None

    def read(self, default: str, timesteps: int | None = None) -> Recipe:
        """Read the recipe, with ``timesteps`` as its T if given.

        Raises:
            RecipeError: if the method is unknown or cannot have this T, or if file and options are both given.
        """
        named = {"--method": self.method, "--option": self.option or None}
        if self.recipe is not None:
            given = [name for name, value in named.items() if value is not None]
            if given:
                raise RecipeError(
                    f"cannot be combined with {' and '.join(given)}",
                    where="--recipe",
                    remedy="write the method and its options into the file",
                )
            recipe = Recipe.load(self.recipe)
            return recipe if timesteps is None else recipe.with_timesteps(timesteps)
        taken = ("method",) if timesteps is None else ("method", "timesteps")
        values = key_values(self.option or [], "--option", "threshold=max", taken=taken)
        return Recipe.from_method(self.method or default, timesteps, **values)


@dataclass(frozen=True)
class Conversion:
    """Options of the conversion that do not depend on the method."""

    max_pool: Annotated[MaxPool, Option(help="How max-pooling is converted.")] = "refuse"
    num_calibration_images: Annotated[int, Option(min=1, help="Maximum number of calibration images.")] = (
        NUM_CALIBRATION_IMAGES
    )


@dataclass(frozen=True)
class Running:
    """How a spiking network is run."""

    execution: Annotated[
        Execution,
        Option(help="steps: simulation; counts: closed form on time-means; auto: closed form if all neurons have one."),
    ] = "auto"
    fuse: Fuse = "auto"

    def check(self, recipe: Recipe, test_source: object) -> None:
        """Refuse an execution that the recipe's neurons do not support, before any work.

        Raises:
            DataError: if an execution is given without test images.
            RecipeError: if the closed form is requested and the neurons have none.
        """
        if self.execution != "auto" and test_source is None:
            raise DataError(
                "has no effect without test images", where="--execution", remedy="leave it out, or give --test"
            )
        if self.execution == "counts" and not recipe.neuron.builds.closed_form:
            raise RecipeError(
                f"is 'counts', but the neurons of {recipe.name} have no closed form",
                where="--execution",
                remedy="use auto or steps",
            )


N = TypeVar("N", int, float)


def numbers(text: str, kind: Callable[[str], N], where: str, example: str | None = None) -> tuple[N, ...]:
    """Parse numbers that are separated by commas."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = example or ("3,32,32" if kind is int else "0.5,0.5,0.5")
        raise DataError(
            f"is {text!r}", where=where, remedy=f"give numbers separated by commas, such as {example}"
        ) from None


def key_values(texts: list[str], where: str, example: str, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parse the values of a repeatable option that is written as key=value."""
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
