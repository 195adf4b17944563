"""``rheobase train``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from typer import Argument, Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.cli.describe import network_document, show_conversion
from rheobase.cli.output import save_and_measure
from rheobase.cli.run_folder import ALPHA_PLOT, LEVELS, METRIC_PLOT, NETWORK, TRAINING, check_run, claim_run
from rheobase.cli.settings import DEFAULTS, read_training
from rheobase.cli.sources import preprocessing_document, read_images
from rheobase.core.errors import RecipeError
from rheobase.core.results import Column, Table
from rheobase.data import readers
from rheobase.data.batches import Batches
from rheobase.data.readers import Preprocessing
from rheobase.exchange import checkpoints
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure._evaluate import Evaluation
from rheobase.methods import Recipe
from rheobase.methods._convert import convert as convert_network
from rheobase.methods._convert import quantise
from rheobase.methods.adaptive_levels import SHARE, AdaptedLevels, adapt_levels, check_falling, stages
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.fused import set_fusion
from rheobase.training import Trained, Training
from rheobase.training import train as train_network


@dataclass(frozen=True)
class Settings:
    """How the network is trained."""

    epochs: Annotated[int | None, Option(help=f"Number of epochs (default {DEFAULTS['epochs']}).")] = None
    learning_rate: Annotated[
        float | None, Option(help=f"Initial learning rate (default {DEFAULTS['learning_rate']}).")
    ] = None
    batch_size: Annotated[int | None, Option(help="Images per step on all devices together (default 128).")] = None
    augment: Annotated[str | None, Option(help="Augmentation, as crop,flip,cutout,autoaugment or crop=2,cutout=8.")] = (
        None
    )
    training: Annotated[Path | None, Option(help="YAML file with any fields of rheobase.Training.")] = None

    def read(self, preprocessing: Preprocessing | None) -> Training:
        """Combine file and options."""
        given = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_size")}
        return read_training(self.training, given, self.augment, preprocessing)


@dataclass(frozen=True)
class Adaptation:
    """Adaptation of the levels of every site during training."""

    adapt: Annotated[
        str | None, Option(help="Adapt the levels of every site during training: L of each cluster, as 8,4.")
    ] = None
    adapt_option: Annotated[
        list[str] | None,
        Option(help="share, num_calibration_images, alpha or moments, as key=value; may be repeated."),
    ] = None
    plots: Annotated[bool, Option("--plots", help="Plot the metric by which --adapt chooses levels.")] = False

    def read(self, training: Training) -> dict[str, Any] | None:
        """Return the arguments of :func:`rheobase.methods.adapt_levels`; None if levels are not adapted."""
        if self.adapt is None:
            for option, given in (("--adapt-option", self.adapt_option), ("--plots", self.plots)):
                if given:
                    raise RecipeError("has no effect without --adapt", where=option, remedy="give --adapt, such as 8,4")
            return None
        levels = options.numbers(self.adapt, int, "--adapt", example="8,4")
        check_falling(levels)
        values = options.key_values(self.adapt_option or [], "--adapt-option", "alpha=0.02")
        known = ("share", "num_calibration_images", "alpha", "moments")
        unknown = [name for name in values if name not in known]
        if unknown:
            raise RecipeError(f"{unknown[0]!r} is unknown", where="--adapt-option", remedy=f"give {', '.join(known)}")
        stages(training, values.get("share", SHARE))  # raises before the data are read
        return {"levels": list(levels), **values}


@dataclass(frozen=True)
class Hardware:
    """Devices on which the network is trained."""

    accelerator: Annotated[str, Option(help="cpu, cuda, mps, or auto: the best available.")] = "auto"
    devices: Annotated[int, Option(min=1, help="Number of devices; on CPUs, of processes.")] = 1
    strategy: Annotated[Literal["auto", "ddp"], Option(help="auto uses ddp if there are several devices.")] = "auto"


@command
def train(
    model: Annotated[str, Argument(help="module:function that returns the network.")],
    data: options.CalibrationData,
    out: Annotated[Path, Option(help="Folder for run.json, training/ (checkpoints, weights) and network/.")],
    reading: options.Reading,
    testing: options.TestImages,
    method: options.Method,
    settings: Settings,
    adaptation: Adaptation,
    conversion: options.Conversion,
    running: options.Running,
    hardware: Hardware,
    checkpoint: options.Checkpoint = None,
    validation: Annotated[float, Option(help="Fraction of the training images held out to validate; 0: none.")] = 0.1,
    distil: Annotated[bool, Option("--distil", help="Distil the original network into the quantised one.")] = False,
    seed: options.Seed = 0,
) -> Answer | None:
    """Quantise a trained network's activations, train it for a few epochs, convert and save it.

    Repeat the command to continue an interrupted run.
    """
    recipe = method.read("Pascal")
    preprocessing = reading.preprocessing()
    training = settings.read(preprocessing)
    test_source = testing.source(data, reading.folder)
    running.check(recipe, test_source)
    adapt = adaptation.read(training)
    check_run(out)

    set_fusion(running.fuse)
    original = checkpoints.load(model, checkpoint)
    images = read_images(data, reading.folder, preprocessing, seed=seed)
    test = test_source and read_images(*test_source, preprocessing)
    number = conversion.num_calibration_images
    quantised = quantise(
        original,
        recipe,
        calibration=images,
        max_pool=conversion.max_pool,
        num_calibration_images=number,
        seed=seed,
    )
    made_of = {
        "model": model,
        "checkpoint": None if checkpoint is None else _digest(checkpoint),
        "recipe": recipe.to_dict(),
        "max_pool": conversion.max_pool,
        "calibration images": number,
        "adapt": adapt,
    }
    claim_run(out, made_of, training.epochs, _is_first_process())
    samples = readers.read_all(images, progress=show_progress() and _is_first_process())
    how = {"validation": validation or None, "teacher": original if distil else None, **asdict(hardware)}
    how |= {"folder": out / TRAINING, "seed": seed, "progress": show_progress()}
    trained, adapted = _trained(quantised, samples, training, adapt, **how)
    if not _is_first_process():
        return None

    if adapted is not None:
        recipe = _with_levels(recipe, adapted.levels)
        _keep(adapted, out, adaptation.plots)
    network = convert_network(
        trained.model, recipe, calibration=samples, num_calibration_images=number, seed=seed, progress=show_progress()
    )
    used = preprocessing_document(data, preprocessing)
    evaluation = save_and_measure(network, out / NETWORK, True, used, test, running.execution)
    return _answer(network, out / NETWORK, training, trained, adapted, evaluation)


def _answer(
    network: SpikingNetwork,
    folder: Path,
    training: Training,
    trained: Trained,
    adapted: AdaptedLevels | None,
    evaluation: Evaluation | None,
) -> Answer:
    def show(console: Console) -> None:
        _training_table(trained).print(console)
        if adapted is not None:
            adapted.print(console)
        show_conversion(network, folder, evaluation, console)

    document = {
        **network_document(network, str(folder)),
        "training": {"settings": training, "epoch": trained.epoch, "history": trained.history},
        "adapted": adapted and _levels_document(adapted),
        "evaluation": evaluation,
    }
    return Answer(document, show)


def _trained(
    quantised: TrainableGraph, samples: Batches, training: Training, adapt: dict[str, Any] | None, **how: Any
) -> tuple[Trained, AdaptedLevels | None]:
    """Train; return the trained network and the adapted levels, None without ``--adapt``."""
    if adapt is None:
        return train_network(quantised, samples, training, **how), None
    adapted = adapt_levels(quantised, samples, training, **adapt, **how)
    return Trained(adapted.model, adapted.history, adapted.epoch), adapted


def _with_levels(recipe: Recipe, levels: dict[str, int]) -> Recipe:
    values = recipe.to_dict()
    return Recipe.from_dict({**values, "activation": {**values["activation"], "levels": levels}})


def _levels_document(adapted: AdaptedLevels) -> dict[str, Any]:
    return {name: value for name, value in adapted.to_json().items() if name != "history"}


def _keep(adapted: AdaptedLevels, out: Path, plots: bool) -> None:
    (out / LEVELS).write_text(json.dumps(_levels_document(adapted), indent=2) + "\n")
    if plots:
        from rheobase.measure.plots import level_metric_plot

        level_metric_plot(adapted.metric, out / METRIC_PLOT, levels=adapted.levels)
        level_metric_plot(adapted.metric.sweep(), out / ALPHA_PLOT)


def _is_first_process() -> bool:
    """True in the one process of a distributed run that prints and saves."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only  # takes seconds, and only training needs it

    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _training_table(trained: Trained) -> Table:
    columns = (
        Column("epoch", "epoch"),
        Column("loss", "train_loss", "{:.4f}"),
        Column("accuracy", "train_accuracy", "{:.2f} %", scale=100),
        Column("validation loss", "validation_loss", "{:.4f}"),
        Column("validation accuracy", "validation_accuracy", "{:.2f} %", scale=100),
        Column("seconds", "seconds", "{:.1f}"),
    )
    return Table(columns, trained.history, f"Training; the weights are those of epoch {trained.epoch}")
