"""Options that several commands share. A dataclass is a group, with one option per field and methods that read them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from torch import Tensor, nn
from torch.utils.data import DataLoader
from typer import Argument, Context, Option

from rheobase.cli.behaviour import note, reported_errors
from rheobase.comparison.budget import check_limits
from rheobase.core import user_code
from rheobase.core.devices import find_device, spread_over
from rheobase.core.errors import DataError, ModelError, RecipeError
from rheobase.core.folders import user_path
from rheobase.core.results import plain_values
from rheobase.core.yaml_text import parse_yaml
from rheobase.data import readers
from rheobase.data.batches import batches
from rheobase.data.readers import Preprocessing
from rheobase.exchange import checkpoints, onnx, store
from rheobase.graph.rewrites.linear_sites import Sites
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.graph.trace.nonlinear import Nonlinear
from rheobase.measure._energy import GradedSpikes as Counting
from rheobase.methods import Recipe
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.fused import Fusion, set_fusion
from rheobase.tasks import TaskName

SPEC = "a folder, .tar, shards, .npz, .npy, or module:function"
Execution = Literal["auto", "counts", "steps"]

Model = Annotated[
    str,
    Argument(help="module:function or module:function(name=value), an .onnx file, or the folder of a saved network."),
]
Saved = Annotated[Path, Argument(metavar="DIR", help="Folder of a saved spiking network.")]
CalibrationData = Annotated[str, Option("--data", help=f"Calibration or training images, never test images: {SPEC}.")]
TestData = Annotated[str, Option("--data", help=f"Images to measure on: {SPEC}.")]
Steps = Annotated[int | None, Option(help="Number of time-steps T (default: that of the conversion).")]
GradedSpikes = Annotated[
    Counting,
    Option(help="Energy of a spike of magnitude k at a synapse: k additions, or a product by k."),
]
Budget = Annotated[
    list[str] | None,
    Option(
        help="latency=8 (steps), energy=0.5 (of the ANN's) or bits=3 (bits a spike): choose the most accurate within "
        "these limits; may be repeated."
    ),
]
Task = Annotated[
    TaskName | None,
    Option(help="What the outputs are for (default: as stored with the network, or as the labels show)."),
]
EarlyExit = Annotated[
    bool, Option("--early-exit", help="Also stop each image when the network is confident (methods that stream).")
]
Seed = Annotated[int, Option(help="Seed of calibration images, splits, batch order and augmentation.")]
Output = Annotated[str | None, Option(help="Output to convert if the network returns several: its key or position.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output of an earlier call.")]
Fuse = Annotated[Fusion, Option(help="Compile the neurons' loop over time: auto (long runs only), always, never.")]


def _first_device(context: Context, names: str | None) -> str | None:
    """The first of several devices; for the rest of the command, work is spread over all of them."""
    if names is None or "," not in names:
        return names
    with reported_errors():
        devices = [str(find_device(name.strip())) for name in names.split(",")]
    context.with_resource(spread_over(*devices))
    return devices[0]


Device = Annotated[
    str | None,
    Option(
        metavar="cpu|cuda|mps|auto",
        callback=_first_device,
        help="Where to compute (default: cpu). auto: a GPU if there is one. cuda:0,cuda:1: on both at the same time.",
    ),
]


@dataclass(frozen=True)
class Weights:
    """How ``module:function`` is called, and the weights that are loaded into its network."""

    checkpoint: Annotated[
        Path | None, Option(help="Trained weights: .safetensors, or .pt, .pth, .pth.tar, .ckpt, .bin of torch.save.")
    ] = None
    model_option: Annotated[
        list[str] | None, Option(help="Argument of the model's function as name=value; may be repeated.")
    ] = None

    def options(self) -> dict[str, Any]:
        """Return the arguments of the function by name."""
        return key_values(self.model_option, "--model-option", "num_classes=10")

    def load(self, model: str, example: Callable[[], Tensor]) -> nn.Module:
        """Build the network and load its weights, or read it from an ONNX file for inputs like ``example()``."""
        if not onnx.is_onnx(model):
            return checkpoints.load(model, self.checkpoint, self.options())
        if self.given():
            raise ModelError(
                f"has no effect on {model}, which contains its weights", where=self.given()[0], remedy="leave it out"
            )
        return onnx.import_onnx(model, example())

    def given(self) -> list[str]:
        """Return the options that are given."""
        found = {"--checkpoint": self.checkpoint, "--model-option": self.model_option or None}
        return [name for name, value in found.items() if value is not None]


@dataclass(frozen=True)
class Source:
    """Images: their place, the part of them to read, their preprocessing (None: not given), and how they are read."""

    data: str
    folder: str | None
    preprocessing: Preprocessing | None
    readers: int = 0
    skip_damaged: bool = False

    @property
    def is_function(self) -> bool:
        """True if a function reads the data, preprocesses and shuffles them."""
        return not user_path(self.data).exists() and user_code.names_function(self.data)

    def read(self, seed: int | None = None, limit: int | None = None) -> DataLoader[Any]:
        """Open the images; a seed shuffles images from files, ``limit`` then keeps the first ones."""
        if self.is_function:
            seed = limit = None
        return readers.load(
            self.data,
            folder=self.folder,
            preprocessing=self.preprocessing,
            seed=seed,
            limit=limit,
            readers=self.readers,
            skip_damaged=self.skip_damaged,
        )

    def example(self) -> Tensor:
        """Return the first few images."""
        return next(batches(replace(self, readers=0).read(limit=4), where=self.data))[0][:4]

    def described(self) -> dict[str, Any] | None:
        """Return the preprocessing to store with a network; None if a function preprocesses."""
        return None if self.is_function else plain_values(self.preprocessing or Preprocessing())

    def seen_by(self, network: SpikingNetwork) -> Source:
        """Return the images with the preprocessing of the network's calibration images.

        Options that are given replace single fields of it. Files become grayscale for a network of one channel, also
        if it was converted on arrays, which need no such option.
        """
        if self.is_function:
            return self
        stored = network.provenance.calibration.get("preprocessing")
        if stored is None and self.preprocessing is None:
            note("No preprocessing is stored with the network: pixels are divided by 255.")
        given = {} if self.preprocessing is None else self.preprocessing.model_dump(exclude_unset=True)
        values = {**(stored or {}), **given}
        if stored is not None:
            shown = [f"{name} {_short(value)}" for name, value in values.items() if value not in (None, False)]
            but = f" except {', '.join(given)}" if given else ""
            note(f"Preprocessing as stored with the network{but}: {', '.join(shown) or 'the default'}.")
        has_one_channel = len(network.graph.input_shape) == 3 and network.graph.input_shape[0] == 1
        if has_one_channel and not values.get("grayscale") and not self.data.lower().endswith((".npz", ".npy")):
            note("The network has one channel: images are converted to grayscale.")
            values["grayscale"] = True
        return replace(self, preprocessing=Preprocessing(**values))


@dataclass(frozen=True)
class Reading:
    """How the images of ``--data`` are read."""

    folder: Annotated[str | None, Option(help="Part of the data to read, such as train or test.")] = None
    size: Annotated[int | None, Option(help="Resize the short side to this number of pixels.")] = None
    crop: Annotated[int | None, Option(help="Crop to a centred square of this side in pixels.")] = None
    mean: Annotated[str | None, Option(help="Channel means, subtracted after scaling, as 0.485,0.456,0.406.")] = None
    std: Annotated[str | None, Option(help="Channel deviations, divided by after that, as 0.229,0.224,0.225.")] = None
    scale: Annotated[float | None, Option(help="Pixel value that becomes 1 (default: 255 for images).")] = None
    grayscale: Annotated[bool, Option("--grayscale", help="Convert images to one channel.")] = False
    readers: Annotated[int, Option(min=0, help="Processes that read and decode images; 0: none besides this one.")] = 0
    skip_damaged: Annotated[
        bool, Option("--skip-damaged", help="Leave out damaged images and what follows the damage in an archive.")
    ] = False

    def of(self, data: str) -> Source:
        """Return the images of ``data``."""
        fields = {name: getattr(self, name) for name in Preprocessing.model_fields}
        given = {name: value for name, value in fields.items() if value is not None and value is not False}
        given |= {name: numbers(given[name], float, f"--{name}") for name in ("mean", "std") if name in given}
        preprocessing = Preprocessing(**given) if given else None
        return Source(data, self.folder, preprocessing, self.readers, self.skip_damaged)


@dataclass(frozen=True)
class TestImages:
    """Images to test on."""

    test: Annotated[str | None, Option(help=f"Test images: {SPEC}.")] = None
    test_folder: Annotated[str | None, Option(help="Part of --test to read, or of --data if --test is not given.")] = (
        None
    )

    def source(self, images: Source) -> Source | None:
        """Return the test images, preprocessed like the calibration images but others; None if no option is given."""
        if self.test is None and self.test_folder is None:
            return None
        source = replace(images, data=self.test or images.data, folder=self.test_folder)
        if source == images:
            raise DataError(
                "names the calibration images, on which the measured accuracy would be too high",
                where="--test",
                remedy="give other images, for instance with --test-folder",
            )
        return source


@dataclass(frozen=True)
class ValidationImages:
    """Images to choose on."""

    validation: Annotated[str | None, Option(help=f"Validation images, on which a choice is made: {SPEC}.")] = None
    validation_folder: Annotated[
        str | None, Option(help="Part of --validation to read, or of --data if --validation is not given.")
    ] = None

    def source(self, images: Source) -> Source | None:
        """Return the validation images, preprocessed like the others; None if no option is given."""
        if self.validation is None and self.validation_folder is None:
            return None
        return replace(images, data=self.validation or images.data, folder=self.validation_folder)


@dataclass(frozen=True)
class Method:
    """A method and its options, or a file with both."""

    method: Annotated[str | None, Option(help="Method, such as FTBC (default: RateCoding; for training, Pascal).")] = (
        None
    )
    option: Annotated[list[str] | None, Option(help="Option of the method as key=value; may be repeated.")] = None
    recipe: Annotated[Path | None, Option(help="YAML recipe, instead of a method and its options.")] = None

    def family(self, default: str) -> Callable[..., Recipe]:
        """Return a function of ``timesteps`` and ``magnitude`` that returns the method's recipe, for a budget."""
        if self.recipe is not None:
            raise RecipeError(
                "has a T and a magnitude, which --budget chooses",
                where="--recipe",
                remedy="give --method and --option instead, or leave --budget out",
            )
        values = key_values(self.option, "--option", "threshold=max", taken=("method", "timesteps", "magnitude"))
        return partial(Recipe.from_method, self.method or default, **values)

    def read(self, default: str, timesteps: int | None = None) -> Recipe:
        """Read the recipe, with ``timesteps`` as its T if given."""
        if self.recipe is None:
            taken = ("method",) if timesteps is None else ("method", "timesteps")
            values = key_values(self.option, "--option", "threshold=max", taken=taken)
            return Recipe.from_method(self.method or default, **{"timesteps": timesteps, **values})
        if self.method is not None or self.option:
            raise RecipeError(
                "cannot be combined with --method and --option",
                where="--recipe",
                remedy="write the method and its options into the file",
            )
        recipe = Recipe.load(self.recipe)
        return recipe if timesteps is None else recipe.with_timesteps(timesteps)


def _nonlinear(given: str) -> Nonlinear:
    """The choice for operations without neurons: refuse, numbers, neurons, or module paths separated by commas."""
    return given if given in ("refuse", "numbers", "neurons") else tuple(path.strip() for path in given.split(","))


NonlinearChoice = Annotated[
    Any,
    Option(
        parser=_nonlinear,
        metavar="refuse|numbers|neurons|PATHS",
        help="Gates, softmax, SiLU, norms...: refuse; numbers: compute on numbers, or only in the modules of PATHS; "
        "neurons: functions of one variable as straight pieces.",
    ),
]


@dataclass(frozen=True)
class Conversion:
    """Options of the conversion that do not depend on the method, as arguments of the library."""

    output: Output = None
    max_pool: Annotated[MaxPool, Option(help="How max-pooling is converted.")] = "refuse"
    nonlinear: NonlinearChoice = "refuse"
    num_calibration_images: Annotated[int, Option(min=1, help="Maximum number of calibration images.")] = 1024


@dataclass(frozen=True)
class Placement:
    """Where neurons are placed."""

    sites: Annotated[
        Sites,
        Option(
            help="all: also at linear outputs that another weighted layer reads; needs signed neurons. products: also "
            "at what products of activations read."
        ),
    ] = "activations"


@dataclass(frozen=True)
class Running:
    """How a spiking network is run."""

    execution: Annotated[
        Execution,
        Option(help="steps: simulation; counts: closed form on time-means; auto: closed form if all neurons have one."),
    ] = "auto"
    fuse: Fuse = "auto"
    device: Device = None

    def check(self, recipe: Recipe, test: object) -> None:
        """Refuse an execution without test images, or one that the recipe's neurons do not support, before any work."""
        if self.execution != "auto" and test is None:
            raise DataError(
                "has no effect without test images", where="--execution", remedy="leave it out, or give --test"
            )
        if self.execution == "counts" and not recipe.neuron.builds.closed_form:
            raise RecipeError(
                f"is 'counts', but the neurons of {recipe.name} have no closed form",
                where="--execution",
                remedy="use auto or steps",
            )

    def load(self, folder: Path) -> SpikingNetwork:
        """Load a saved network; refuse an execution that it does not support."""
        set_fusion(self.fuse)
        network = load(folder, self.device)
        network.execution = self.execution
        _ = network.execution_mode  # raises before anything is measured
        return network


def load(folder: Path, device: str | None) -> SpikingNetwork:
    """Load a saved network onto a device."""
    place = find_device(device or "cpu")  # before a file is read
    return store.load(folder).to(place)


def is_folder(model: str) -> bool:
    """True for a folder, False for ``module:function`` and ONNX files; refuse anything else."""
    exists = user_path(model).is_dir()
    if not exists and not user_code.names_function(model) and not onnx.is_onnx(model):
        raise ModelError(
            "is neither an existing folder, module:function nor an .onnx file",
            where=model,
            remedy="give a folder that `rheobase convert` wrote or an .onnx file, or write my_module:my_function, with "
            "arguments my_module:my_function(name=value)",
        )
    return exists


def read_model(model: str, weights: Weights, images: Source) -> tuple[nn.Module, Source]:
    """Return the network to convert and its images, by default with the preprocessing that is stored with it."""
    if not is_folder(model):
        return weights.load(model, images.example), images
    if weights.given():
        raise ModelError(f"has no effect on {model}, a saved network", where=weights.given()[0], remedy="leave it out")
    network = store.load(model)
    return network, images.seen_by(network)


N = TypeVar("N", int, float)


def numbers(text: str, kind: Callable[[str], N], where: str) -> tuple[N, ...]:
    """Parse numbers that are separated by commas."""
    try:
        return tuple(map(kind, text.split(",")))
    except ValueError:
        raise DataError(f"is {text!r}", where=where, remedy="give numbers separated by commas, such as 8,4") from None


def key_values(texts: list[str] | None, where: str, example: str, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parse the values of a repeatable option that is written as key=value."""
    values: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise RecipeError(f"is {text!r}", where=where, remedy=f"write it as key=value, such as {example}")
        if key in taken or key in values:
            raise RecipeError("is given twice", where=f"{where} {key}", remedy="give it once")
        values[key] = parse_yaml(value, f"{where} {key}")
    return values


def limits(texts: list[str] | None) -> dict[str, float]:
    """Parse and check ``--budget``; empty if it is not given."""
    values = key_values(texts, "--budget", "latency=8")
    with contextlib.suppress(ValueError, TypeError):  # YAML 1.1 reads 5e-1 as text
        values |= {name: float(value) for name, value in values.items() if isinstance(value, str)}
    return check_limits(values) if values else {}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
