"""``rheobase train``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rheobase import convert as convert_network
from rheobase import data, models
from rheobase import train as train_network
from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, note, show_progress
from rheobase.cli.describe import network_document, show_conversion
from rheobase.cli.output import NETWORK, RUN, TRAINING, check_run, measure, save
from rheobase.cli.settings import DEFAULTS, read_training
from rheobase.errors import TrainingError
from rheobase.quantise import quantise
from rheobase.training import Trained
from rheobase.training import checkpoint as disk


class Strategy(StrEnum):
    """How several processes work together."""

    auto = "auto"
    ddp = "ddp"


@command
def train(
    model: Annotated[str, typer.Argument(help="module:function that returns the network.")],
    data_spec: Annotated[str, typer.Option("--data", help=f"Training images (never test images): {options.SPEC}.")],
    out: Annotated[Path, typer.Option(help="Folder for run.json, training/ (checkpoints, weights) and network/.")],
    checkpoint: options.Checkpoint = None,
    folder: options.Folder = None,
    test: options.TestData = None,
    test_folder: options.TestFolder = None,
    method: Annotated[str | None, typer.Option(help="Method with a quantised activation (default Pascal).")] = None,
    option: options.Option = None,
    recipe_file: Annotated[Path | None, typer.Option("--recipe", help="YAML recipe, instead of the two above.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"Default {DEFAULTS['epochs']}.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help=f"Default {DEFAULTS['learning_rate']}.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step, all devices together (128).")] = None,
    augment: Annotated[
        str | None, typer.Option(help="Such as crop,flip,cutout,autoaugment or crop=2,cutout=8,autoaugment=imagenet.")
    ] = None,
    training_file: Annotated[
        Path | None, typer.Option("--training", help="YAML file with any fields of rheobase.Training.")
    ] = None,
    validation: Annotated[float, typer.Option(help="Fraction of the training images to validate on; 0: none.")] = 0.1,
    distil: Annotated[bool, typer.Option("--distil", help="Learn from the network as it was, too.")] = False,
    max_pool: options.MaxPool = options.MaxPooling.refuse,
    images: Annotated[int, typer.Option(min=1, help="From how many images θ starts, at most.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of validation split, order, augmentation and calibration images.")] = 0,
    accelerator: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the best there is.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="How many; on CPUs, processes.")] = 1,
    strategy: Annotated[Strategy, typer.Option(help="ddp for several devices, which auto takes too.")] = Strategy.auto,
    size: options.Size = None,
    crop: options.Crop = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    grayscale: options.Grayscale = False,
    execution: options.Execute = options.Execution.auto,
    as_json: options.Json = False,
) -> None:
    """Quantise a trained network's activations, train it for a few epochs, convert and save it.

    An interrupted run goes on when the same command is given again.
    """
    recipe = options.read_recipe(recipe_file, method, None, option or [], default="Pascal")
    preprocessing = options.read_preprocessing(size, crop, mean, std, scale, grayscale)
    given = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    training = read_training(training_file, given, augment, preprocessing)
    test_source = options.read_test_source(data_spec, folder, test, test_folder)
    options.check_execution(execution, recipe, test_source)
    check_run(out)
    original = models.load(model, checkpoint)
    shuffle = None if options.is_function(data_spec) else seed
    loader = data.load(data_spec, folder=folder, preprocessing=preprocessing, seed=shuffle)
    test_loader = test_source and data.load(test_source[0], folder=test_source[1], preprocessing=preprocessing)
    quantised = quantise(original, recipe, calibration=loader, max_pool=max_pool.value, limit=images, seed=seed)
    made_of = {
        "model": model,
        "checkpoint": None if checkpoint is None else _digest(checkpoint),
        "recipe": recipe.to_dict(),
        "max_pool": max_pool.value,
        "calibration images": images,
    }
    first = _is_first_process()
    _claim(out, made_of, training.epochs, first)
    samples = data.read_all(loader, progress=show_progress() and first)
    trained = train_network(
        quantised,
        samples,
        training,
        validation=validation or None,
        teacher=original if distil else None,
        folder=out / TRAINING,
        seed=seed,
        progress=show_progress(),
        accelerator=accelerator,
        devices=devices,
        strategy=strategy.value,
    )
    if not _is_first_process():
        return
    network = convert_network(
        trained.model, recipe, calibration=samples, limit=images, seed=seed, progress=show_progress()
    )
    network.provenance.calibration["preprocessing"] = None if shuffle is None else options.plain_values(preprocessing)
    save(network, out / NETWORK, overwrite=True)
    evaluation = None if test_loader is None else measure(network, test_loader, execution, out / NETWORK)
    document = {
        **network_document(network, str(out / NETWORK)),
        "training": {
            "settings": training.model_dump(mode="json"),
            "epoch": trained.epoch,
            "history": [asdict(record) for record in trained.history],
        },
        "evaluation": evaluation and evaluation.to_json(),
    }

    def show(console: Console) -> None:
        _show_training(trained, console)
        show_conversion(network, out / NETWORK, evaluation, console)

    answer(document, as_json, show)


def _is_first_process() -> bool:
    """Whether this is the process, of several that train together, that answers."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only  # takes seconds, and only training needs it

    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _claim(out: Path, made_of: Mapping[str, Any], epochs: int, first: bool) -> None:
    """Go on only with a run that is made of the same; note in the folder what a new one is made of.

    What :func:`rheobase.train` compares (settings, data, seed) does not tell levels, rounding or starting weights.
    """
    path = out / RUN
    found = disk.load(out / TRAINING)
    if found is not None:
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as cause:
            raise TrainingError(
                f"does not tell what the run is made of ({cause})", where=str(path), remedy="choose another folder"
            ) from cause
        disk.check_same_run(before, made_of, out)
    if not first:
        return
    if found is None:
        out.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{RUN}.new")
        draft.write_text(json.dumps(made_of, indent=2) + "\n")
        os.replace(draft, path)
        note(f"Every epoch ends with a checkpoint in {out / TRAINING}: if interrupted, give the same command again.")
    else:
        note(f"Going on after epoch {len(found.history)} of {epochs}, from the checkpoint in {out / TRAINING}.")


def _show_training(trained: Trained, console: Console) -> None:
    table = Table(title=f"Training; the weights are those of epoch {trained.epoch}")
    for column in ("epoch", "loss", "accuracy", "validation loss", "validation accuracy", "seconds"):
        table.add_column(column, justify="right")
    for record in trained.history:
        table.add_row(
            str(record.epoch),
            f"{record.train_loss:.4f}",
            _percent(record.train_accuracy),
            "-" if record.validation_loss is None else f"{record.validation_loss:.4f}",
            _percent(record.validation_accuracy),
            f"{record.seconds:.1f}",
        )
    console.print(table)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
