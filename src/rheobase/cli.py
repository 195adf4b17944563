"""The command line: inspect, convert, evaluate, demo.

Answers go to stdout; with ``--json`` exactly one JSON document does. Everything else goes to stderr.
Exit codes: 0; 1 for an error or a refusal; 2 for an unknown option; 130 for Ctrl-C.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rheobase import _imports, data, models, store
from rheobase import convert as convert_network
from rheobase import evaluate as evaluate_network
from rheobase import inspect as inspect_network
from rheobase.batches import batches
from rheobase.data import Preprocessing
from rheobase.errors import DataError, ModelError, RecipeError, RheobaseError, RheobaseWarning, StoreError
from rheobase.evaluate import Evaluation
from rheobase.network import SpikingNetwork
from rheobase.neurons.fused import set_fusion
from rheobase.recipes import Recipe

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    help="Turn a trained PyTorch network into a spiking network, and measure what was lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app(prog_name="rheobase")


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


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Fuse = Annotated[Fusion, typer.Option(help="Compile the neurons' loop: auto (when a run proves long), always, never.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Trained weights: .safetensors, .pt, .pth or .bin.")]
Folder = Annotated[str | None, typer.Option(help="Part of the data to read, such as train or test.")]
Size = Annotated[int | None, typer.Option(help="Resize the short side to so many pixels.")]
Crop = Annotated[int | None, typer.Option(help="Keep a centred square of so many pixels.")]
Mean = Annotated[str | None, typer.Option(help="Subtracted from each channel after scaling, as 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Divides each channel after that, as 0.229,0.224,0.225.")]
Scale = Annotated[float | None, typer.Option(help="The pixel value that becomes 1 (default 255).")]
Grayscale = Annotated[bool, typer.Option("--grayscale", help="Decode image files to one channel.")]
SPEC = "a folder, .tar, .npz, IDX folder, or module:function"


EVALUATION, PLOT = BESIDES = ("evaluation.json", "accuracy.png")
"""What ``convert`` puts beside the network's own files."""

# How every command behaves


def _command(function: Callable[P, R]) -> Callable[P, R]:
    """Errors as one sentence and exit code 1, warnings as one line, Ctrl-C as exit code 130."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        quiet = redirect_stdout(sys.stderr) if kwargs.get("as_json") else nullcontext()
        answer = sys.stdout
        try:
            with _warnings_in_one_line(), quiet, _answering_on(answer):
                return function(*args, **kwargs)
        except RheobaseError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise  # typer's own business: the reader of our output has gone
        except OSError as error:
            print(f"Error: {error.filename or 'output'}: {error.strerror or error}.", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


_answer_stream: list[Any] = []


@contextmanager
def _answering_on(stream: Any) -> Iterator[None]:
    # A user's function may print; with --json that goes to stderr, and only the answer to stdout.
    _answer_stream.append(stream)
    try:
        yield
    finally:
        _answer_stream.pop()


def _answer(document: dict[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    stream = _answer_stream[-1]
    if as_json:
        print(json.dumps(document, indent=2), file=stream)
        return
    # Piped tables are for files and scripts: rich's 80 columns would break them.
    show(Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else 160))


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        plain = warnings.showwarning
        warnings.simplefilter("default", RheobaseWarning)

        def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if issubclass(category, RheobaseWarning):
                print(f"Warning: {message}", file=sys.stderr)
            else:
                plain(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _progress() -> bool:
    return sys.stderr.isatty()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rheobase {version('rheobase')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options that stand before any command."""


# inspect


@app.command()
@_command
def inspect(
    model: Annotated[str, typer.Argument(help="module:function that returns the network, or a saved folder.")],
    checkpoint: Checkpoint = None,
    input_shape: Annotated[str | None, typer.Option(help="Shape of one input, as 3,32,32.")] = None,
    data_spec: Annotated[str | None, typer.Option("--data", help=f"Take the shape from data: {SPEC}.")] = None,
    folder: Folder = None,
    size: Size = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    grayscale: Grayscale = False,
    as_json: Json = False,
) -> None:
    """List what would become spiking, what is rewritten, and what is refused and why."""
    preprocessing = _preprocessing(size, crop, mean, std, scale, grayscale)
    if _is_folder(model):
        _refuse_unused(
            f"{model}, a saved network",
            {
                "--checkpoint": checkpoint,
                "--input-shape": input_shape,
                "--data": data_spec,
                "--folder": folder,
                "preprocessing": preprocessing,
            },
        )
        network = store.load(Path(model))
        _answer(_network_document(network, model), as_json, lambda console: _show_network(network, console))
        return
    if data_spec is None:
        _refuse_unused("--input-shape", {"--folder": folder, "preprocessing": preprocessing})
    example = _example(input_shape, data_spec, folder, preprocessing)
    found = inspect_network(models.load(model, checkpoint), example)
    _answer(found.to_json(), as_json, found.print)
    if not found.convertible:
        raise typer.Exit(1)


def _is_folder(model: str) -> bool:
    if Path(model).is_dir():
        return True
    if not _imports.names_function(model):
        raise ModelError(
            "is neither a folder that exists nor module:function",
            where=model,
            remedy="give a folder that `rheobase convert` wrote, or write my_module:my_function",
        )
    return False


def _refuse_unused(where: str, options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise DataError(f"has no effect on {where}", where=name, remedy="leave it out")


def _example(
    input_shape: str | None, data_spec: str | None, folder: str | None, preprocessing: Preprocessing | None
) -> Tensor:
    if (input_shape is None) == (data_spec is None):
        raise DataError(
            "the input's size is needed once",
            where="inspect",
            remedy="give either --input-shape 3,32,32 or --data",
        )
    if data_spec is not None:
        loader = data.load(data_spec, folder=folder, preprocessing=preprocessing, batch_size=4)
        return next(batches(loader, where=data_spec))[0]
    shape = _numbers(input_shape or "", int, "--input-shape")
    if min(shape) < 1:
        raise DataError(f"is {input_shape}", where="--input-shape", remedy="give sizes of 1 or more")
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _network_document(network: SpikingNetwork, folder: str) -> dict[str, Any]:
    provenance = network.provenance
    return {
        "folder": folder,
        "recipe": network.recipe,
        "timesteps": network.timesteps,
        "input_shape": list(network.graph.input_shape),
        "sites": [
            {
                "name": site.name,
                "shape": list(site.shape),
                "previous": list(site.previous),
                "next": list(site.next),
                **_threshold(network, site.index),
            }
            for site in network.sites
        ],
        "notes": _notes(network),
        "calibration": provenance.calibration,
        "passes": provenance.passes,
        "seed": provenance.seed,
        "versions": provenance.versions,
    }


def _threshold(network: SpikingNetwork, index: int) -> dict[str, Any]:
    values = torch.as_tensor(network.neurons[index].threshold).flatten()
    firing = values[torch.isfinite(values)]
    span = [float(firing.min()), float(firing.max())] if len(firing) else None
    return {"threshold": span, "silent_channels": len(values) - len(firing)}


def _notes(network: SpikingNetwork) -> list[str]:
    """What the conversion said, pass by pass."""
    notes = list(network.provenance.notes)
    for record in network.provenance.passes:
        notes += [f"{record['pass'].get('kind', 'pass')}: {note}" for note in record["notes"]]
    return notes


def _show_network(network: SpikingNetwork, console: Console) -> None:
    table = Table(title=f"{network.recipe.get('name', 'spiking network')}, T = {network.timesteps}")
    for column in ("#", "site", "shape", "threshold", "silent", "from", "to"):
        table.add_column(column, overflow="fold")
    for site in network.sites:
        found = _threshold(network, site.index)
        span = found["threshold"]
        low, high = (f"{value:.3g}" for value in span) if span else ("-", "-")
        table.add_row(
            str(site.index),
            site.name,
            "×".join(map(str, site.shape)),
            low if low == high else f"{low} – {high}",
            str(found["silent_channels"] or "-"),
            ", ".join(site.previous) or "input",
            ", ".join(site.next) or "readout",
        )
    console.print(table)
    console.print(f"Input {'×'.join(map(str, network.graph.input_shape))}. Recipe:")
    console.print(yaml.safe_dump(network.recipe, sort_keys=False).rstrip(), soft_wrap=True)
    _show_notes(network, console)


def _show_notes(network: SpikingNetwork, console: Console) -> None:
    notes = _notes(network)
    if notes:
        console.print("Notes:")
    for note in notes:
        console.print(f"  - {note}", soft_wrap=True)


# convert


@app.command()
@_command
def convert(
    model: Annotated[str, typer.Argument(help="module:function that returns the network.")],
    data_spec: Annotated[str, typer.Option("--data", help=f"Calibration images (never test images): {SPEC}.")],
    out: Annotated[Path, typer.Option(help="Folder to save the spiking network in.")],
    checkpoint: Checkpoint = None,
    folder: Folder = None,
    test: Annotated[str | None, typer.Option(help=f"Test images, to evaluate at T = 1, 2, 4, ...: {SPEC}.")] = None,
    test_folder: Annotated[
        str | None, typer.Option(help="Part of the test data to read; alone: a part of --data.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Conversion method (default RateCoding).")] = None,
    timesteps: Annotated[int | None, typer.Option(help="T (default: the method's own).")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value for the method; may be repeated.")] = None,
    recipe_file: Annotated[
        Path | None, typer.Option("--recipe", help="YAML recipe, instead of the three above.")
    ] = None,
    max_pool: Annotated[MaxPooling, typer.Option(help="What max-pooling becomes.")] = MaxPooling.refuse,
    images: Annotated[int, typer.Option(min=1, help="How many calibration images to use at most.")] = 512,
    seed: Annotated[int, typer.Option(help="Chooses the calibration images and splits them.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a network saved in --out.")] = False,
    size: Size = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    grayscale: Grayscale = False,
    fuse: Fuse = Fusion.auto,
    as_json: Json = False,
) -> None:
    """Convert a trained network, save it, and measure it on test images if there are any."""
    recipe = _recipe(recipe_file, method, timesteps, option or [])
    preprocessing = _preprocessing(size, crop, mean, std, scale, grayscale)
    test_source = _test_source(data_spec, folder, test, test_folder)
    _check_output(out, overwrite)
    set_fusion(fuse.value)
    trained = models.load(model, checkpoint)
    shuffle = None if _is_function(data_spec) else seed
    calibration = data.load(data_spec, folder=folder, preprocessing=preprocessing, seed=shuffle)
    test_loader = test_source and data.load(test_source[0], folder=test_source[1], preprocessing=preprocessing)
    network = convert_network(
        trained,
        recipe,
        calibration=calibration,
        max_pool=max_pool.value,
        limit=images,
        seed=seed,
        progress=_progress(),
    )
    network.provenance.calibration["preprocessing"] = None if shuffle is None else _plain(preprocessing)
    _save(network, out, overwrite)
    evaluation = None
    if test_loader is not None:
        evaluation = evaluate_network(network, test_loader, progress=_progress())
        (out / EVALUATION).write_text(json.dumps(evaluation.to_json(), indent=2) + "\n")
        from rheobase.plots import accuracy_plot  # here, because matplotlib takes long to import

        accuracy_plot({evaluation.method: evaluation}, out / PLOT)
    document = {**_network_document(network, str(out)), "evaluation": evaluation and evaluation.to_json()}
    _answer(document, as_json, lambda console: _show_conversion(network, out, evaluation, console))


def _recipe(file: Path | None, method: str | None, timesteps: int | None, options: list[str]) -> Recipe:
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
    for text in options:
        key, value = _option(text)
        if key == "method" or key in values:
            raise RecipeError("is given twice", where=f"--option {key}", remedy="give it once")
        values[key] = value
    return Recipe.from_dict({"method": method or "RateCoding", **values})


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip().isidentifier():
        raise RecipeError(f"is {text!r}", where="--option", remedy="write it as key=value, such as threshold=max")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"has the value {value!r}, which is no YAML scalar", where=f"--option {key}") from None


def _test_source(
    data_spec: str, folder: str | None, test: str | None, test_folder: str | None
) -> tuple[str, str | None] | None:
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


def _check_output(out: Path, overwrite: bool) -> None:
    """Find out before the long work whether saving can succeed."""
    if out.exists():
        _check_replaceable(out, overwrite)
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".rheobase-", dir=parent):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", where=str(out), remedy="choose a folder you can write to"
        ) from None


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not overwrite:
        raise StoreError("exists already", where=str(out), remedy="choose another folder, or pass --overwrite")
    held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    foreign = held - {store.STRUCTURE_FILE, store.TENSORS_FILE, *BESIDES}
    if foreign:
        raise StoreError(
            f"is not replaced, it holds more than a converted network ({min(foreign)})",
            where=str(out),
            remedy="choose another folder",
        )


def _save(network: SpikingNetwork, out: Path, overwrite: bool) -> None:
    if overwrite:
        for name in BESIDES:  # of the network that is replaced
            (out / name).unlink(missing_ok=True)
    store.save(network, out, overwrite=overwrite)


def _show_conversion(network: SpikingNetwork, out: Path, evaluation: Evaluation | None, console: Console) -> None:
    name = network.recipe.get("name", "")
    console.print(f"{len(network.sites)} sites converted with {name} for T = {network.timesteps}.", soft_wrap=True)
    for record in network.provenance.passes:
        console.print(_pass_line(network, record), soft_wrap=True)
    _show_notes(network, console)
    if evaluation is not None:
        evaluation.print(console)
    console.print(f"Saved in {out}.", soft_wrap=True)


def _pass_line(network: SpikingNetwork, record: dict[str, Any]) -> str:
    line = f"{record['pass'].get('kind', 'pass')}: {len(record['changed'])} sites changed"
    errors = record["error_after"]
    if errors:
        worst = max(range(len(errors)), key=errors.__getitem__)
        line += (
            f"; relative squared error on held-out images: median {median(errors):.2g}, "
            f"largest {errors[worst]:.2g} ({network.sites[worst].name})"
        )
    return line


# evaluate


@app.command()
@_command
def evaluate(
    network_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved spiking network.")],
    data_spec: Annotated[str, typer.Option("--data", help=f"Test images: {SPEC}.")],
    folder: Folder = None,
    timesteps: Annotated[str | None, typer.Option(help="Step counts, as 1,2,4,8 (default: 1, 2, 4, ... T).")] = None,
    size: Size = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    grayscale: Grayscale = False,
    fuse: Fuse = Fusion.auto,
    as_json: Json = False,
) -> None:
    """Measure a saved spiking network next to the analog network it came from."""
    steps = None if timesteps is None else _numbers(timesteps, int, "--timesteps")
    preprocessing = _preprocessing(size, crop, mean, std, scale, grayscale)
    set_fusion(fuse.value)
    network = store.load(network_folder)
    if preprocessing is None and not _is_function(data_spec):
        preprocessing = _remembered(network)
    loader = data.load(data_spec, folder=folder, preprocessing=preprocessing)
    evaluation = evaluate_network(network, loader, steps, progress=_progress())
    used = None if _is_function(data_spec) else _plain(preprocessing)
    document = {"folder": str(network_folder), "preprocessing": used, "evaluation": evaluation.to_json()}
    _answer(document, as_json, evaluation.print)


def _remembered(network: SpikingNetwork) -> Preprocessing:
    """The preprocessing of the calibration images."""
    stored = network.provenance.calibration.get("preprocessing")
    if stored is None:
        _note("No preprocessing is stored with the network: pixels are divided by 255.")
        return Preprocessing()
    preprocessing = Preprocessing(**stored)
    settings = {name: value for name, value in stored.items() if value not in (None, False)}
    _note(
        "Preprocessing as stored with the network: "
        + ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
        + "."
    )
    return preprocessing


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# Options in common


def _is_function(spec: str) -> bool:
    """Whether the data come from a function, which does its own preprocessing and shuffling."""
    return not Path(spec).exists() and _imports.names_function(spec)


def _preprocessing(
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
        "mean": None if mean is None else _numbers(mean, float, "--mean"),
        "std": None if std is None else _numbers(std, float, "--std"),
        "scale": scale,
        "grayscale": grayscale or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Preprocessing(**given) if given else None


def _plain(preprocessing: Preprocessing | None) -> dict[str, Any]:
    values = asdict(preprocessing or Preprocessing())
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


N = TypeVar("N", int, float)


def _numbers(text: str, kind: Callable[[str], N], where: str) -> tuple[N, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "3,32,32" if kind is int else "0.5,0.5,0.5"
        raise DataError(
            f"is {text!r}", where=where, remedy=f"give numbers with commas between, such as {example}"
        ) from None


# demo


@app.command()
@_command
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("rheobase-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demonstration.")] = False,
) -> None:
    """Train a small network on real handwritten digits, convert and evaluate it: less than a minute."""
    from rheobase.demo import run_demo  # here, because scikit-learn takes long to import

    found = run_demo(out, overwrite=overwrite, progress=_progress())

    def show(console: Console) -> None:
        found.table.print(console)
        console.print("The saved network was loaded again and gives the same numbers.", soft_wrap=True)
        console.print(
            f"{found.seconds:.0f} s. Read {out / 'summary.md'} and look at {out / 'accuracy.png'}.",
            soft_wrap=True,
        )

    _answer({}, False, show)
