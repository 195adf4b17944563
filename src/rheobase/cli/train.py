"""``rheobase train``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typer import Argument, Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, note, show_progress
from rheobase.cli.output import check_output, network_document, save_and_measure, show_conversion
from rheobase.cli.settings import DEFAULTS, read_training
from rheobase.core.devices import find_device
from rheobase.core.errors import DataError, RecipeError, TrainingError
from rheobase.core.folders import refuse_foreign, user_path, write_whole
from rheobase.core.results import Column, Table
from rheobase.core.seeds import random_state
from rheobase.data import readers
from rheobase.data.batches import batches
from rheobase.exchange.onnx import is_onnx
from rheobase.graph.trace.capture import capture, device_of
from rheobase.methods import Recipe
from rheobase.methods._convert import convert as convert_network
from rheobase.methods._convert import quantise
from rheobase.methods.adaptive_levels import ADAPTED, SHARE, UNIFORM, AdaptedLevels, adapt_levels, check_falling, stages
from rheobase.neurons.fused import set_fusion
from rheobase.tasks import TaskName, task_for
from rheobase.training import Trained, Training
from rheobase.training import checkpoint as runs
from rheobase.training import train as train_network

RUN, TRAINING, NETWORK = "run.json", "training", "network"
"""Inputs of the run, the folder of :func:`rheobase.train`, and the converted network."""
LEVELS, METRIC_PLOT, ALPHA_PLOT = "levels.json", "metric.png", "alpha.png"
"""Files added by ``--adapt``: :meth:`rheobase.methods.AdaptedLevels.to_json`, and plots of the metric."""


@dataclass(frozen=True)
class Settings:
    """How the network is trained."""

    epochs: Annotated[int | None, Option(help=f"Number of epochs (default {DEFAULTS['epochs']}).")] = None
    learning_rate: Annotated[
        float | None, Option(help=f"Initial learning rate (default {DEFAULTS['learning_rate']}).")
    ] = None
    batch_size: Annotated[int | None, Option(help="Images per step on all devices together (default 128).")] = None
    augment: Annotated[
        str | None, Option(help="Augmentation, as crop,flip,cutout,autoaugment or resized_crop,flip or crop=2.")
    ] = None
    training: Annotated[Path | None, Option(help="YAML file with any fields of rheobase.Training.")] = None


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
        levels = options.numbers(self.adapt, int, "--adapt")
        check_falling(levels)
        values = options.key_values(self.adapt_option, "--adapt-option", "alpha=0.02")
        known = ("share", "num_calibration_images", "alpha", "moments")
        unknown = [name for name in values if name not in known]
        if unknown:
            raise RecipeError(f"{unknown[0]!r} is unknown", where="--adapt-option", remedy=f"give {', '.join(known)}")
        stages(training, values.get("share", SHARE))  # raises before the data are read
        return {"levels": list(levels), **values}


@dataclass(frozen=True)
class Hardware:
    """Devices of the kind of ``--device`` on which the network is trained; by default a GPU if there is one."""

    devices: Annotated[int, Option(min=1, help="Number of devices; on CPUs, of processes.")] = 1
    strategy: Annotated[Literal["auto", "ddp"], Option(help="auto uses ddp if there are several devices.")] = "auto"

    def on(self, place: torch.device) -> dict[str, Any]:
        """Arguments of the training on devices like ``place``."""
        devices: int | list[int] = self.devices
        if place.index is not None and self.devices > 1:
            reason = f"has no effect with --device {place}, which is one"
            raise TrainingError(reason, where="--devices", remedy=f"give --device {place.type}")
        if place.index is not None:
            devices = [place.index]
        return {"accelerator": place.type, "devices": devices, "strategy": self.strategy}


@command
def train(
    model: Annotated[str, Argument(help="module:function or module:function(name=value), or an .onnx file.")],
    data: options.CalibrationData,
    out: Annotated[Path, Option(help="Folder for run.json, training/ (checkpoints, weights) and network/.")],
    reading: options.Reading,
    testing: options.TestImages,
    weights: options.Weights,
    method: options.Method,
    settings: Settings,
    adaptation: Adaptation,
    conversion: options.Conversion,
    running: options.Running,
    hardware: Hardware,
    validation: Annotated[float, Option(help="Fraction of the training images held out to validate; 0: none.")] = 0.1,
    distil: Annotated[bool, Option("--distil", help="Distil the original network into the quantised one.")] = False,
    plain: Annotated[
        bool, Option("--plain", help="Train the network as it is written: no quantisation, no conversion.")
    ] = False,
    task: options.Task = None,
    seed: options.Seed = 0,
) -> Answer | None:
    """Quantise a trained network's activations, train it for a few epochs, convert and save it.

    With --plain, train the network itself: its weights are for --checkpoint. Repeat the command to continue an
    interrupted run.
    """
    if plain:
        _refuse_without_effect(method, adaptation, conversion, running, distil=distil)
    recipe = None if plain else method.read("Pascal")
    images = reading.of(data)
    given = asdict(settings)
    training = read_training(given.pop("training"), images.preprocessing, **given)
    test = testing.source(images)
    if recipe is not None:
        running.check(recipe, test)
    place = find_device(running.device or "auto")
    accelerated = hardware.on(place)
    set_fusion(running.fuse)
    adapt = adaptation.read(training)
    refuse_foreign(out, {RUN, TRAINING, NETWORK, LEVELS, METRIC_PLOT, ALPHA_PLOT}, "a run of `rheobase train`")
    check_output(out / NETWORK, overwrite=True)

    if plain and is_onnx(model):
        remedy = "build the network in PyTorch: module:function"
        raise TrainingError(f"has no effect on {model}, whose weights no option reads", where="--plain", remedy=remedy)
    with random_state(seed, None):  # a network without a checkpoint draws its weights
        original = weights.load(model, images.example)
    loader, test_images = images.read(seed), None if test is None else test.read()
    how: dict[str, Any] = {"validation": validation or None, "folder": out / TRAINING, "task": task, "seed": seed}
    how |= {"progress": show_progress(), **accelerated}
    if recipe is None:
        return _train_plain(model, weights, original, loader, test_images, training, how)
    quantised = quantise(original, recipe, calibration=loader, task=task, seed=seed, device=place, **asdict(conversion))
    file = user_path(model) if is_onnx(model) else weights.checkpoint
    inputs = {
        "model": model,
        "checkpoint": None if file is None else hashlib.sha256(file.read_bytes()).hexdigest(),
        "recipe": recipe.to_dict(),
        "max_pool": conversion.max_pool,
        **({} if conversion.nonlinear == "refuse" else {"nonlinear": conversion.nonlinear}),
        "calibration images": conversion.num_calibration_images,
        "adapt": adapt,
        **({"model options": weights.options()} if weights.model_option else {}),
        **({} if task is None else {"task": task}),
        **({} if conversion.output is None else {"output": conversion.output}),
    }
    first = _is_first_process()
    _claim(out, inputs, training.epochs, first)
    samples = readers.read_all(loader, progress=show_progress() and first)
    teacher = None
    if distil:  # its graph: the same output as the quantised network's, and logits where the network has a softmax
        example = torch.zeros(2, *quantised.input_shape, device=device_of(original))
        teacher = capture(original, example, output=conversion.output, nonlinear=conversion.nonlinear).graph
    how["teacher"] = teacher
    adapted = None
    if adapt is None:
        trained = train_network(quantised, samples, training, **how)
    else:
        adapted = adapt_levels(quantised, samples, training, **adapt, **how)
        trained = Trained(adapted.model, adapted.history, adapted.epoch)
        values = recipe.to_dict()
        recipe = Recipe.from_dict({**values, "activation": {**values["activation"], "levels": adapted.levels}})
    if not first:
        return None

    levels = None if adapted is None else _keep(adapted, out, adaptation.plots)
    number = conversion.num_calibration_images
    network = convert_network(
        trained.model,
        recipe,
        calibration=samples,
        task=task,
        num_calibration_images=number,
        seed=seed,
        device=place,
        progress=show_progress(),
    )
    evaluation = save_and_measure(network, out / NETWORK, True, images, test_images, running.execution)

    def show(console: Console) -> None:
        _training_table(trained).print(console)
        if adapted is not None:
            adapted.print(console)
        show_conversion(network, out / NETWORK, evaluation, console)

    document = {
        **network_document(network, str(out / NETWORK)),
        "training": {"settings": training, "epoch": trained.epoch, "history": trained.history},
        "adapted": levels,
        "evaluation": evaluation,
    }
    return Answer(document, show)


def _refuse_without_effect(*groups: Any, distil: bool) -> None:
    """Refuse options about quantisation and conversion, which --plain leaves out."""
    given = {
        field.name: getattr(group, field.name) != field.default
        for group in groups
        for field in fields(group)
        if field.name != "device"
    }
    for name in (name for name, is_given in {**given, "distil": distil}.items() if is_given):
        reason = "has no effect with --plain, which neither quantises nor converts"
        raise TrainingError(reason, where=f"--{name.replace('_', '-')}", remedy="leave it or --plain out")


def _train_plain(
    model: str,
    weights: options.Weights,
    original: nn.Module,
    loader: DataLoader[Any],
    test: DataLoader[Any] | None,
    training: Training,
    how: dict[str, Any],
) -> Answer | None:
    """Train the network as it is written, and measure it on the test images if there are any."""
    file, out, first = weights.checkpoint, how["folder"].parent, _is_first_process()
    inputs = {
        "model": model,
        "checkpoint": None if file is None else hashlib.sha256(file.read_bytes()).hexdigest(),
        "plain": True,
        "model options": weights.options(),
        "task": how["task"],
    }
    _claim(out, inputs, training.epochs, first)
    samples = readers.read_all(loader, progress=show_progress() and first)
    trained = train_network(original, samples, training, **how)
    if not first:
        return None
    scores = {} if test is None else _scores(trained.model, test, how["task"])
    path = out / TRAINING / runs.WEIGHTS_FILE

    def show(console: Console) -> None:
        _training_table(trained).print(console)
        for name, score in scores.items():
            console.print(f"Test images: {name} {score:.4g}")
        console.print(f"Weights in {path}, for --checkpoint.", soft_wrap=True)

    settings = {"settings": training, "epoch": trained.epoch, "history": trained.history}
    return Answer({"weights": str(path), "training": settings, "scores": scores}, show)


@torch.no_grad()
def _scores(network: nn.Module, test: DataLoader[Any], task: TaskName | None) -> dict[str, float]:
    """All measures of the task on labelled test images, by name."""
    found = scores = None
    seen, place = 0, device_of(network)
    for images, labels in batches(test, where="--test"):
        if labels is None:
            raise DataError("has no labels", where="--test", remedy="give labelled images, or leave it out")
        outputs: Tensor = network(images.to(place)).cpu()
        if found is None or scores is None:
            found = task_for(task, outputs.shape[1:], labels, "--test")
            scores = found.scores(outputs.shape[1:])
        found.check(outputs.shape[1:], labels, "--test", seen)
        scores.update(outputs, found.targets(labels))
        seen += len(images)
    return {} if scores is None else scores.compute()


def _claim(out: Path, inputs: Mapping[str, Any], epochs: int, first: bool) -> None:
    """Check that a run in the folder has the same inputs; record the inputs of a new run.

    :func:`rheobase.train` compares settings, data and seed only, not levels, rounding or initial weights.
    """
    path, training = out / RUN, out / TRAINING
    states = map(runs.load, (training, training / UNIFORM, training / ADAPTED))
    found = [state for state in states if state is not None]
    if found:
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as cause:
            raise TrainingError(
                f"does not record the inputs of the run ({cause})", where=str(path), remedy="choose another folder"
            ) from cause
        runs.check_same_run(before, inputs, out)
    if not first:
        return
    if found:
        done = sum(len(state.history) for state in found)
        note(f"Continuing after epoch {done} of {epochs}, from the checkpoint in {training}.")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(inputs, indent=2) + "\n")
    note(f"Every epoch writes a checkpoint to {training}. After an interruption, repeat the command to continue.")


def _keep(adapted: AdaptedLevels, out: Path, plots: bool) -> dict[str, Any]:
    """Write the levels, and plots of the metric if asked; return the levels as plain values."""
    document = adapted.to_json()
    del document["history"]
    (out / LEVELS).write_text(json.dumps(document, indent=2) + "\n")
    if plots:
        from rheobase.measure.plots import level_metric_plot

        level_metric_plot(adapted.metric, out / METRIC_PLOT, levels=adapted.levels)
        level_metric_plot(adapted.metric.sweep(), out / ALPHA_PLOT)
    return document


def _is_first_process() -> bool:
    """True in the one process of a distributed run that prints and saves."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only  # takes seconds, and only training needs it

    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


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
