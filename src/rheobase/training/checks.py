"""Checks before training starts, and of a run that diverges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rheobase.core.checks import check_fraction
from rheobase.core.errors import DataError, DivergedError, TrainingError, first_line
from rheobase.core.seeds import derive, random_state
from rheobase.data.batches import Batches
from rheobase.data.sources import InMemory, Part, read, split
from rheobase.graph.graph import Graph
from rheobase.graph.trace.capture import FINAL
from rheobase.graph.trainable import TrainableGraph
from rheobase.network.trainable import TrainableNetwork
from rheobase.tasks import Task, inferred, task_for
from rheobase.training.checkpoint import CHECKPOINT_FILE
from rheobase.training.settings import Training

_CHECK_EVERY = 20
"""Steps between two checks, if a check waits for a GPU or another process."""

_LABELS_READ = 32
"""Images of a data set whose labels may show the task."""

_WATCHED = ("threshold", "step_size", "steps", "bits")
"""Names of the checked parameters; of bits n, 2ⁿ is checked."""


def split_data(
    data: Batches | Dataset[Any],
    validation: float | Batches | Dataset[Any] | None,
    training: Training,
    seed: int,
    workers: int,
    fields: bool = False,
) -> tuple[Part, Part | None]:
    """The images to train on and those to validate on, as many as the settings need."""
    source = read(data, where="training data", workers=workers, fields=fields)
    fitted, checked = Part(source, torch.arange(len(source))), None
    if isinstance(validation, float | int):
        remedy = "give a fraction between 0 and 1, images, or None"
        fraction = check_fraction(validation, "validation", error=TrainingError, remedy=remedy)
        fitted, checked = split(source, fraction, derive(seed, "validation"))
    elif validation is not None:
        separate = read(validation, where="validation data", workers=workers, fields=fields)
        checked = Part(separate, torch.arange(len(separate)))
    if checked is not None and len(checked) == 0:
        remedy = "give a larger fraction, or None to train without validation"
        raise DataError(f"the fraction is less than one of {len(fitted)} images", where="validation", remedy=remedy)
    if len(fitted) < training.batch_size:
        raise DataError(
            f"has {len(fitted)} images, fewer than one batch of {training.batch_size}",
            where="training data",
            remedy=f"set batch_size to at most {len(fitted)}, or give more images",
        )
    for name in ("patience", "keep"):
        value = getattr(training, name)
        if checked is None and value not in (None, "last"):
            reason = f"is {value!r}, which needs validation images"
            raise TrainingError(reason, where=name, remedy="give validation=0.1, or validation images")
    return fitted, checked


def check_task(
    module: nn.Module,
    teacher: nn.Module | None,
    loss: Callable[..., Tensor] | None,
    fitted: Part,
    checked: Part | None,
    training: Training,
    task: str | None,
) -> Task | None:
    """Check on two images that networks, images and labels fit each other, with the labels of some more.

    Returns:
        The task: as given, or inferred from the labels; with a loss of one's own None if they leave a doubt.
    """
    outputs: dict[str, torch.Size] = {}
    found: Task | None = None
    for part, where in ((fitted, "training data"), (checked, "validation data")):
        if part is None:
            continue
        source = part.source
        if not source.labelled and teacher is None and loss is None:
            remedy = "give labels, or a teacher in place of them"
            raise DataError("has no labels, which the loss needs", where=where, remedy=remedy)
        with random_state(0, None):
            some = part.numbers[: 2 if isinstance(source, InMemory) else _LABELS_READ]
            images, labels = next(iter(source.batches([some])))
        images = images[:2]
        if part is fitted and training.augment is not None:
            training.augment.check(images.shape)
            _check_moved(training, labels)
        for network, name in ((module, "model"), (teacher, "teacher")):
            if network is not None:
                outputs[name] = _output_shape(network, name, images, where)
        shape = outputs["model"][1:]
        every = source.labels if isinstance(source, InMemory) and source.labels is not None else labels
        if isinstance(every, Mapping) and task is not None:
            reason = f"is {task!r}, but the labels have the fields {', '.join(map(str, every))}"
            raise TrainingError(reason, where="task", remedy="leave it out: the loss is your own")
        if loss is None or (task is not None and found is None):
            found = found or task_for(task, shape, every, where)
        elif isinstance(every, Tensor) and part is fitted:
            found = inferred(shape, every)
        if found is None or every is None:
            continue
        try:
            found.check(shape, every, where)
        except DataError:
            if loss is None or task is not None:
                raise
            found = None  # they mean something to the loss
    if found is not None and found.name == "regression" and training.label_smoothing and loss is None:
        raise TrainingError("has no effect on a regression", where="label_smoothing", remedy="leave it out")
    if teacher is not None and loss is None and outputs["teacher"] != outputs["model"]:
        reason = f"has an output of shape {list(outputs['teacher'])}, and the model one of {list(outputs['model'])}"
        raise TrainingError(reason, where="teacher", remedy="give a teacher for the same classes")
    return found


def _check_moved(training: Training, labels: Any) -> None:
    """Refuse an augmentation that moves the images, but not the maps or boxes that are their labels."""
    augment = training.augment
    if augment is None or not (augment.crop_padding or augment.resized_crop or augment.flip or augment.autoaugment):
        return
    if isinstance(labels, Mapping) or (isinstance(labels, Tensor) and labels.dim() > 2):
        reason = "moves the images, but not labels that depend on the place in the image"
        raise TrainingError(reason, where="augment", remedy="augment in a Dataset of your own, images and labels alike")


def check_teacher_returns_logits(module: nn.Module, teacher: nn.Module | None, fitted: Part) -> None:
    """Refuse the probabilities of a network with a final softmax or sigmoid as the targets of a network without it."""
    removed = [note for note in getattr(module, "notes", ()) if FINAL in note]
    if not removed or teacher is None or isinstance(teacher, Graph | TrainableGraph):
        return
    with torch.no_grad(), random_state(0, None):
        images, _ = next(iter(fitted.source.batches([fitted.numbers[:2]])))
        values = teacher(images.cpu().float())
    if isinstance(values, Tensor) and float(values.min()) >= 0 and float(values.max()) <= 1:
        reason = f"returns values from 0 to 1, and the model logits ({removed[0]})"
        remedy = "give the teacher's graph, which returns logits: rb.graph.capture(net, images[:4]).graph"
        raise TrainingError(reason, where="teacher", remedy=remedy)


def _output_shape(network: nn.Module, name: str, images: Tensor, where: str) -> torch.Size:
    network.eval()
    try:
        with torch.no_grad(), random_state(0, None):
            output = network(images.cpu().float())
    except Exception as cause:
        first = first_line(cause)
        raise DataError(
            f"the {name} cannot run on images of shape {list(images.shape)} ({first})",
            where=where,
            remedy="check the size and the number of channels of the images",
        ) from cause
    if not isinstance(output, Tensor):
        raise TrainingError(f"returns a {type(output).__name__}", where=name, remedy="let it return logits")
    return output.shape


def choose(module: nn.Module, parameters: Callable[[str], bool] | None) -> list[str]:
    """Freeze the parameters that are not chosen, and return the names of the trained ones."""
    known = dict(module.named_parameters())
    if parameters is not None:
        for name, parameter in known.items():
            parameter.requires_grad_(parameter.requires_grad and bool(parameters(name)))
    names = [name for name, parameter in known.items() if parameter.requires_grad]
    if not names:
        raise TrainingError(
            "leaves no parameter to train",
            where="model" if parameters is None else "parameters",
            remedy=f"choose some of {', '.join(known)}" if known else "give a network with parameters",
        )
    return names


def copied(model: nn.Module, where: str) -> nn.Module:
    """A copy of a network on the CPU, so that the original is not changed."""
    if not isinstance(model, nn.Module):
        raise TrainingError.typed(f"is a {type(model).__name__}", where=where, remedy="give a torch.nn.Module")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            remedy = "call model.float() first; for mixed precision, set precision in rb.Training"
            raise TrainingError(f"{name} is of type {value.dtype}, not float32", where=where, remedy=remedy)
    for name, value in model.named_parameters():
        if not bool(value.isfinite().all()):
            remedy = "load weights from before a training diverged"
            raise TrainingError(f"{name} holds NaN or infinite values", where=where, remedy=remedy)
    try:
        return copy.deepcopy(model).cpu()
    except Exception as cause:
        remedy = "make copy.deepcopy(model) work"
        raise TrainingError(f"cannot be copied ({cause})", where=where, remedy=remedy) from cause


class Guard:
    """Stops a run if a loss is not finite, or a threshold, step size or number of steps not positive and finite.

    In a spiking network it watches every parameter, because a neuron whose potential is NaN is silent: the loss stays
    finite.

    In one process on a CPU it checks every step. Elsewhere a check waits for the device or for other processes, so the
    results of several steps are checked together; all processes check the same results and stop at the same step.
    """

    def __init__(self, module: nn.Module, fabric: Any, folder: Path | None) -> None:
        self.fabric, self.folder = fabric, folder
        self.spiking = module if isinstance(module, TrainableNetwork) else None
        named = {} if self.spiking else dict(module.named_parameters())
        self.watched = {name: value for name, value in named.items() if name.split(".")[-1] in _WATCHED}
        self.every = 1 if fabric.device.type == "cpu" and fabric.world_size == 1 else _CHECK_EVERY
        self.findings: list[Tensor] = []
        self._report(self._fine(torch.zeros((), device=fabric.device)), "before training")

    def watch(self, loss: Tensor, epoch: int, step: int, last: bool) -> None:
        """Record the result of a step, and check the recorded results when due."""
        self.findings.append(self._fine(loss))
        if len(self.findings) < self.every and not last:
            return
        first = step - len(self.findings) + 1
        found = torch.stack(self.findings).int()
        if self.fabric.world_size > 1:
            found = self.fabric.all_reduce(found, reduce_op="min")
        self.findings.clear()
        if not bool(found.all()):
            i = int((found == 0).any(1).nonzero()[0])
            self._report(found[i] > 0, f"epoch {epoch}, step {first + i}")

    def error(self, problem: str, when: str) -> DivergedError:
        """The error for a run that diverged."""
        kept = str(self.folder) if self.folder is not None and (self.folder / CHECKPOINT_FILE).exists() else None
        remedy = "use a smaller learning rate, clip the gradient, or warm up"
        return DivergedError(problem, where=when, kept=kept, remedy=remedy)

    def _fine(self, loss: Tensor) -> Tensor:
        """True for a finite loss, each watched value that is positive and finite, and each finite spiking parameter."""
        parts = (value.exp2() if name.endswith("bits") else value for name, value in self.watched.items())
        fine = ((part > 0) & (part < torch.inf) for part in parts)  # both false for NaN
        spiking = [self.spiking.finite()] if self.spiking else []
        return torch.cat([part.detach().reshape(-1) for part in (loss.isfinite(), *fine, *spiking)])

    def _report(self, fine: Tensor, when: str) -> None:
        names = [name for name, _ in self.spiking.named_parameters()] if self.spiking else []
        loss, *parts, spiking = fine.split([1, *(value.numel() for value in self.watched.values()), len(names)])
        for name, part in zip(names, spiking, strict=True):
            if not bool(part):
                raise self.error(f"{name} is not finite", when)
        for (name, value), part in zip(self.watched.items(), parts, strict=True):
            if not bool(part.all()):
                bad = float(value.detach().reshape(-1)[~part][0])
                raise self.error(f"{name} is {bad:.4g}, not positive and finite", when)
        if not bool(loss):
            raise self.error("the loss is not finite", when)
