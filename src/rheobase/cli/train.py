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

from rheobase.cli import options
from rheobase.cli.behaviour import answer, command, note, show_progress
from rheobase.cli.describe import network_document, show_conversion
from rheobase.cli.output import ALPHA_PLOT, LEVELS, METRIC_PLOT, NETWORK, RUN, TRAINING, check_run, measure, save
from rheobase.cli.settings import DEFAULTS, read_training
from rheobase.core.errors import RecipeError, TrainingError
from rheobase.data import readers as data
from rheobase.exchange import checkpoints as models
from rheobase.methods import Recipe
from rheobase.methods._convert import convert as convert_network
from rheobase.methods._quantise import quantise
from rheobase.methods.adaptive_levels import AdaptedLevels, adapt_levels
from rheobase.methods.adaptive_levels.adapt import ADAPTED, SHARE, UNIFORM, stages
from rheobase.methods.adaptive_levels.metric import check_falling
from rheobase.training import Trained, Training
from rheobase.training import checkpoint as disk
from rheobase.training import train as train_network


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
    adapt: Annotated[
        str | None,
        typer.Option(help="Adapt levels after two thirds of the epochs: L of each cluster of sites, as 8,4."),
    ] = None,
    adapt_option: Annotated[
        list[str] | None,
        typer.Option(help="share, num_calibration_images, alpha or moments=value for --adapt; may be repeated."),
    ] = None,
    plots: Annotated[bool, typer.Option("--plots", help="Draw the metric that --adapt goes by.")] = False,
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
    adaptation = _read_adaptation(adapt, adapt_option or [], plots, training)
    check_run(out)
    original = models.load(model, checkpoint)
    shuffle = None if options.is_function(data_spec) else seed
    loader = data.load(data_spec, folder=folder, preprocessing=preprocessing, seed=shuffle)
    test_loader = test_source and data.load(test_source[0], folder=test_source[1], preprocessing=preprocessing)
    quantised = quantise(
        original, recipe, calibration=loader, max_pool=max_pool.value, num_calibration_images=images, seed=seed
    )
    made_of = {
        "model": model,
        "checkpoint": None if checkpoint is None else _digest(checkpoint),
        "recipe": recipe.to_dict(),
        "max_pool": max_pool.value,
        "calibration images": images,
        "adapt": adaptation,
    }
    first = _is_first_process()
    _claim(out, made_of, training.epochs, first)
    samples = data.read_all(loader, progress=show_progress() and first)
    how: dict[str, Any] = {
        "validation": validation or None,
        "teacher": original if distil else None,
        "folder": out / TRAINING,
        "seed": seed,
        "progress": show_progress(),
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy.value,
    }
    adapted: AdaptedLevels | None = None
    if adaptation is None:
        trained = train_network(quantised, samples, training, **how)
    else:
        adapted = adapt_levels(quantised, samples, training, **adaptation, **how)
        trained = Trained(adapted.model, adapted.history, adapted.epoch)
        recipe = _with_levels(recipe, adapted.levels)
    if not _is_first_process():
        return
    network = convert_network(
        trained.model, recipe, calibration=samples, num_calibration_images=images, seed=seed, progress=show_progress()
    )
    network.provenance.calibration["preprocessing"] = None if shuffle is None else options.plain_values(preprocessing)
    save(network, out / NETWORK, overwrite=True)
    if adapted is not None:
        _keep(adapted, out, plots)
    evaluation = None if test_loader is None else measure(network, test_loader, execution, out / NETWORK)
    document = {
        **network_document(network, str(out / NETWORK)),
        "training": {
            "settings": training.model_dump(mode="json"),
            "epoch": trained.epoch,
            "history": [asdict(record) for record in trained.history],
        },
        "adapted": adapted and _levels_document(adapted),
        "evaluation": evaluation and evaluation.to_json(),
    }

    def show(console: Console) -> None:
        _show_training(trained, console)
        if adapted is not None:
            _show_levels(adapted, console)
        show_conversion(network, out / NETWORK, evaluation, console)

    answer(document, as_json, show)


def _read_adaptation(adapt: str | None, texts: list[str], plots: bool, training: Training) -> dict[str, Any] | None:
    """What ``--adapt`` and its options say, as arguments of :func:`rheobase.methods.adapt_levels`."""
    if adapt is None:
        for option, given in (("--adapt-option", texts), ("--plots", plots)):
            if given:
                raise RecipeError("has no effect without --adapt", where=option, remedy="give --adapt, such as 8,4")
        return None
    levels = options.numbers(adapt, int, "--adapt", example="8,4")
    check_falling(levels)
    values = options.key_values(texts, "--adapt-option", "alpha=0.02")
    known = ("share", "num_calibration_images", "alpha", "moments")
    unknown = [name for name in values if name not in known]
    if unknown:
        raise RecipeError(f"{unknown[0]!r} is unknown", where="--adapt-option", remedy=f"give {', '.join(known)}")
    stages(training, values.get("share", SHARE))  # an error now, and not after the data are read
    return {"levels": list(levels), **values}


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
    places = (out / TRAINING, out / TRAINING / UNIFORM, out / TRAINING / ADAPTED)
    found = [checkpoint for checkpoint in map(disk.load, places) if checkpoint is not None]
    if found:
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as cause:
            raise TrainingError(
                f"does not tell what the run is made of ({cause})", where=str(path), remedy="choose another folder"
            ) from cause
        disk.check_same_run(before, made_of, out)
    if not first:
        return
    if not found:
        out.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{RUN}.new")
        draft.write_text(json.dumps(made_of, indent=2) + "\n")
        os.replace(draft, path)
        note(f"Every epoch ends with a checkpoint in {out / TRAINING}: if interrupted, give the same command again.")
    else:
        done = sum(len(checkpoint.history) for checkpoint in found)
        note(f"Going on after epoch {done} of {epochs}, from the checkpoint in {out / TRAINING}.")


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


def _show_levels(adapted: AdaptedLevels, console: Console) -> None:
    table = Table(title="Adaptive levels")
    for column in ("site", "metric", "L"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for name, value in adapted.metric.values.items():
        table.add_row(name, f"{value:.4g}", str(adapted.levels[name]))
    console.print(table)
    console.print(f"Mean level {adapted.mean_level:.2f}, from epoch {adapted.switched + 1} on.")
    for line in adapted.metric.notes:
        console.print(f"  - {line}", soft_wrap=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
