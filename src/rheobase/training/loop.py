"""The training loop, with the same code for a CPU, a GPU and several processes."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from rheobase.activations.activation import QuantisedActivation
from rheobase.core.checks import check_whole
from rheobase.core.errors import ResourceError, TrainingError, first_line
from rheobase.core.folders import as_path
from rheobase.core.memory import is_out_of_memory
from rheobase.core.progress import track
from rheobase.core.seeds import check_seed, derive, random_state
from rheobase.data.batches import Batch, Batches, Digest, each
from rheobase.data.sources import Part
from rheobase.graph.trainable import TrainableGraph
from rheobase.network import SpikingNetwork
from rheobase.network.checks import check_one_output
from rheobase.network.trainable import TrainableNetwork, TrainableNeurons, check_trains_through_time
from rheobase.tasks import Task, TaskName, share
from rheobase.training import checkpoint as disk
from rheobase.training.batch_norm import average_statistics, normalising
from rheobase.training.checks import Guard, check_task, check_teacher_returns_logits, choose, copied, split_data
from rheobase.training.settings import Training

_NOT_DECAYED = ("bias", "threshold")

Loss = Callable[[Tensor, Any, Tensor | None], Tensor]
"""(outputs, labels or None, teacher's outputs or None) -> mean loss over the images."""


@dataclass(frozen=True)
class Epoch:
    """The record of an epoch.

    Attributes:
        epoch: number of the epoch, from 1.
        train_loss: mean loss over the steps, including the penalty, on augmented images.
        train_accuracy: share of right decisions over the steps, on augmented images; None without labels, or for a
            regression.
        validation_loss: mean loss over the validation images, without the penalty; None without such images.
        validation_accuracy: the same on the validation images.
        learning_rate: learning rate of the last step.
        seconds: duration in seconds.
        mean_timesteps: mean T over the sites after the epoch, if the network learns T; else None.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    mean_timesteps: float | None = None


@dataclass(frozen=True)
class Trained:
    """A trained network and the record of its training.

    Attributes:
        model: a trained copy of the network, in eval mode; a spiking network for a spiking network.
        history: one record for each epoch.
        epoch: number of the epoch whose weights ``model`` has.
        notes: notes on learned levels that ended at a bound, and on ``exact_statistics``.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    epoch: int
    notes: tuple[str, ...] = ()


def train(
    model: nn.Module,
    data: Batches | Dataset[Any],
    training: Training,
    *,
    validation: float | Batches | Dataset[Any] | None = 0.1,
    teacher: nn.Module | None = None,
    parameters: Callable[[str], bool] | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    loss: Loss | None = None,
    task: TaskName | None = None,
    folder: str | Path | None = None,
    resume: bool = True,
    seed: int = 0,
    progress: bool = False,
    workers: int = 0,
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
) -> Trained:
    r"""Train a copy of a network.

    A spiking network trains through its simulation (:class:`rheobase.network.TrainableNetwork`): weights, θ, V0 and a
    bias for every step, by surrogate gradient. Without labels and ``teacher`` it learns from its analog network,
    ``model.ann``. The result is a spiking network too.

    A step takes the gradient of the mean loss over ``batch_size`` images, for any number of processes: each gets an
    equal share of the same seeded batch, with the same augmentation, and gradients are averaged. Several processes thus
    give the weights of one process within rounding, except for batch norm, which normalises by the statistics of each
    process's share and keeps those of the first process.

    With a folder, every epoch ends with an atomic checkpoint. The same call then resumes after the last epoch, with the
    same bits as an uninterrupted run (on the same machine with the same number of threads; on a GPU as far as its
    kernels are deterministic). The folder contains ``checkpoint.safetensors``, ``metrics.jsonl`` with one line per
    epoch, and at the end ``weights.safetensors``. All processes must see the same folder.

    Args:
        model: maps images [B, ...] to outputs [B, ...]; not changed. A spiking network needs streaming neurons.
        data: training images and labels, which are the targets of the task or of a loss of your own. Tensors are not
            copied; a map-style ``Dataset`` is read in every epoch by ``workers``; a loader is read once to its end and
            kept in memory, and its order and batches are ignored. Without labels, a teacher or a loss of your own is
            needed.
        training: the settings; with seed and data they determine the weights.
        validation: a fraction to split off the training images by the seed, separate images, or None. They decide on
            ``patience`` and ``keep="best"``, so never give test images.
        teacher: a network to distil, for example the one before quantisation; runs in eval mode on the same augmented
            images.
        parameters: returns True for the name of a parameter to train; default: all that require a gradient. The
            statistics of batch norms are always updated.
        penalty: returns a penalty that is added to the loss; called with the network in training.
        loss: a loss in place of that of the task and distillation. It gets the labels as they are: whole numbers as
            int64, other numbers as float32, of any shape, or a dict of such tensors.
        task: what the outputs are for: ``"classification"``, ``"binary"``, ``"multilabel"``, ``"regression"`` or
            ``"segmentation"``, which decides on loss and accuracy (:mod:`rheobase.tasks`). Default: that of a spiking
            network's conversion, or as inferred from the labels.
        folder: folder for checkpoints and metrics; default: none are written.
        resume: continue from the checkpoint in the folder; if False, a folder with a checkpoint is an error.
        seed: seed of split, order, augmentation and dropout; the global random state is restored.
        progress: show a progress bar with the remaining time.
        workers: number of processes that read a ``Dataset``.
        accelerator: "cpu", "cuda", "mps", or "auto" for the best available one.
        devices: number or list of devices on each machine; on CPUs, number of processes.
        nodes: number of machines.
        strategy: "ddp" for several processes; "auto" chooses "ddp" where needed. The script is started again in every
            process, up to this call; alternatively start it with ``torchrun``.

    Raises:
        TrainingError: if settings contradict each other or do not fit the machine, the loss is not finite, a threshold,
            step size or number of steps is not positive and finite, the neurons of a spiking network wait for their
            whole input, or the folder holds another run.
        DataError: if there are too few images, labels do not fit the network or leave its task open, or labels are
            missing.

    Example:
        >>> import rheobase as rb
        >>> from rheobase.zoo.digits import DigitsResNet, digits
        >>> trained = rb.train(DigitsResNet(), digits().train, rb.Training(epochs=1, learning_rate=0.05))
        >>> trained.epoch, len(trained.history), trained.model.training
        (1, 1, False)
    """
    if not isinstance(training, Training):
        remedy = "give rb.Training(epochs=..., learning_rate=...)"
        raise TrainingError.typed(f"is a {type(training).__name__}", where="training", remedy=remedy)
    seed, workers = check_seed(seed), check_whole(workers, "workers", least=0, error=TrainingError)
    for what, given in {"parameters": parameters, "penalty": penalty, "loss": loss}.items():
        if given is not None and not callable(given):
            raise TrainingError.typed(f"is {given!r}", where=what, remedy="give a function, or leave it out")
    spiking = model if isinstance(model, SpikingNetwork) else None
    if spiking is not None:
        check_trains_through_time(spiking)
        check_one_output(spiking.graph, "training")
        model = TrainableNetwork(spiking)
    module = copied(model, "model")
    fitted, checked = split_data(data, validation, training, seed, workers, fields=loss is not None)
    if spiking is not None and teacher is None and loss is None and not fitted.source.labelled:
        teacher = spiking.ann
    teacher = None if teacher is None else copied(teacher, "teacher").eval().requires_grad_(False)
    known = None if spiking is None or loss is not None else spiking.provenance.task
    found_task = check_task(module, teacher, loss, fitted, checked, training, known if task is None else task)
    check_teacher_returns_logits(module, teacher, fitted)
    trained_names = choose(module, parameters)
    target = None if folder is None else as_path(folder, "folder")
    identity: dict[str, Any] = {}
    if target is not None:
        disk.prepare(target)
        with random_state(seed, None):
            identity = {
                "setting": training.model_dump(mode="json"),
                "seed": seed,
                "training data": fitted.source.digest(),
                "validation data": checked.source.digest() if checked else None,
                "validation fraction": validation if isinstance(validation, float) else None,
                "network": {name: list(value.shape) for name, value in module.state_dict().items()},
                "neurons": None if spiking is None else _described(spiking),
                "activations": disk.activations(module),
                "trained parameters": trained_names,
                "teacher": None if teacher is None else Digest().update(**teacher.state_dict()).hexdigest(),
                "loss": _name(loss),
                "task": None if found_task is None else found_task.name,
                "penalty": _name(penalty),
            }
    fabric = _fabric(training, accelerator, devices, nodes, strategy)
    run = _Run(fabric, training, module, teacher, loss, penalty, fitted, checked, seed, target, identity, found_task)
    if target is not None and (found := disk.load(target)) is not None:
        if not resume:
            remedy = "choose another folder, delete the checkpoint, or pass resume=True"
            raise TrainingError("holds the checkpoint of a run", where=str(target), remedy=remedy)
        disk.check_same_run(found.identity, identity, target)
        run.restore(found)
    fabric.barrier()  # no process may write before all have read
    with random_state(seed, fabric.device):
        run.to_the_end(progress)
        notes = run.exact_statistics() if training.exact_statistics else []
    result = copy.deepcopy(model)
    result.load_state_dict(run.kept())
    if target is not None and fabric.is_global_zero:
        disk.save_weights(target, result.state_dict())
    notes += [note for part in _learning(result) for note in part.constraint_notes()]
    if spiking is not None:
        trained = cast(TrainableNetwork, result)
        result = copy.deepcopy(spiking)
        trained.write(result)
    return Trained(result.eval(), tuple(run.history), run.kept_epoch(), tuple(notes))


@dataclass
class _Run:
    """The state of a run, and its steps."""

    fabric: Any
    training: Training
    module: nn.Module
    teacher: nn.Module | None
    loss: Loss | None
    penalty: Callable[[nn.Module], Tensor] | None
    fitted: Part
    checked: Part | None
    seed: int
    folder: Path | None
    identity: dict[str, Any]
    task: Task | None
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = len(self.fitted) // self.training.batch_size
        for network in filter(None, (self.module, self.teacher)):
            network.to(self.fabric.device)
            for parameter in network.parameters():
                parameter.data = _channels_last(parameter.data)  # faster on CPUs and on GPUs
        self.optimiser = _optimiser(self.module, self.training)
        self.network, self.wrapped = self.fabric.setup(self.module, self.optimiser)
        self.guard = Guard(self.module, self.fabric, self.folder)
        self.learning = _learning(self.module)

    def restore(self, found: disk.Checkpoint) -> None:
        """Restore the state from a checkpoint."""
        self.module.load_state_dict(found.model)
        disk.restore_optimiser(self.optimiser, found.optimiser)
        self.best = {name: value.to(self.fabric.device) for name, value in found.best.items()}
        self.history = [Epoch(**record) for record in found.history]

    def to_the_end(self, progress: bool) -> None:
        """Train the remaining epochs."""
        done, epochs = len(self.history), self.training.epochs
        show = progress and self.fabric.is_global_zero
        bar = track(range((epochs - done) * self.steps), "training", show=show)
        with contextlib.closing(cast(Generator[int], bar)):
            for epoch in range(done + 1, epochs + 1):
                patience = self.training.patience
                if patience is not None and self.history and len(self.history) - self.best_epoch() >= patience:
                    break
                self._epoch(epoch, bar)

    @torch.no_grad()
    def exact_statistics(self) -> list[str]:
        """Compute the statistics of batch normalisation over one more epoch of batches, with the kept weights.

        The checkpoint is not changed, so a run that is interrupted here repeats this step with the same result.
        """
        if not normalising(self.module):
            return ["exact_statistics: the network has no batch normalisation; nothing to do"]
        self.module.load_state_dict(self.kept())
        epoch = self.training.epochs + 1
        torch.manual_seed(derive(self.seed, "dropout", epoch, self.fabric.global_rank))
        with self.fabric.autocast():
            average_statistics(self.module, (images for images, _ in self._batches(epoch)))
        if self.fabric.world_size > 1:
            for buffer in self.module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.fabric.all_reduce(buffer, reduce_op="mean"))
        if self.training.keep == "best":
            self._keep()
        note = f"statistics of batch normalisation from {self.steps * self.training.batch_size} images"
        if self.checked is not None:
            kept = self.history[self.kept_epoch() - 1]
            loss, accuracy = self._validate(epoch)
            note += f": validation loss {kept.validation_loss:.4g} -> {loss:.4g}"
            if accuracy is not None and kept.validation_accuracy is not None:
                note += f", accuracy {100 * kept.validation_accuracy:.2f} -> {100 * accuracy:.2f} %"
        return [note]

    def best_epoch(self) -> int:
        """Number of the best epoch on the validation images; the first one of a tie."""
        by_accuracy = self.task is not None and self.task.measures[0].name == "accuracy"
        return max(self.history, key=partial(_score, by_accuracy=by_accuracy)).epoch

    def kept_epoch(self) -> int:
        """Number of the epoch with the weights to return."""
        return self.best_epoch() if self.training.keep == "best" else len(self.history)

    def kept(self) -> dict[str, Tensor]:
        """The weights to return."""
        return self.best if self.training.keep == "best" else self.module.state_dict()

    def _keep(self) -> None:
        self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def _epoch(self, epoch: int, bar: Iterator[int]) -> None:
        started = time.perf_counter()
        losses, correct = self._zero(torch.float64), self._zero(torch.int64, 2)
        self.module.train()
        # Dropout differs from process to process; seeded by the epoch, it needs no state in the checkpoint.
        torch.manual_seed(derive(self.seed, "dropout", epoch, self.fabric.global_rank))
        rate = 0.0
        for step, (images, labels) in enumerate(self._batches(epoch), (epoch - 1) * self.steps):
            next(bar)
            rate = self.training.rate_at(step, self.steps)
            loss, logits = self._step_in_memory(images, labels, rate)
            for part in self.learning:
                part.constrain((step + 1) / (self.training.epochs * self.steps))
            number = step + 1 - (epoch - 1) * self.steps
            self.guard.watch(loss, epoch, number, last=number == self.steps)
            losses += loss
            correct += self._correct(logits, labels)
        if self.fabric.world_size > 1:
            # Each process has normalised by the statistics of its share; those of the first are validated and kept.
            for buffer in self.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        train_loss = self._sum(losses) / (self.steps * self.fabric.world_size)
        train_accuracy = self._accuracy(correct, self.fitted)
        validation = self._validate(epoch)
        mean_timesteps = statistics.fmean(part.mean_timesteps for part in self.learning) if self.learning else None
        seconds = time.perf_counter() - started
        self.history.append(Epoch(epoch, train_loss, train_accuracy, *validation, rate, seconds, mean_timesteps))
        if self.training.keep == "best" and self.best_epoch() == epoch:
            self._keep()
        if self.folder is not None and self.fabric.is_global_zero:
            records = [asdict(record) for record in self.history]
            tensors = disk.optimiser_tensors(self.optimiser)
            state = disk.Checkpoint(self.identity, records, self.module.state_dict(), tensors, self.best)
            disk.save(self.folder, state)

    def _step_in_memory(self, images: Tensor, labels: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
        """:meth:`_step`. A batch is not halved if memory runs out: batch normalisation would give another network."""
        try:
            return self._step(images, labels, rate)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"runs out of memory for a batch of {len(images)} images",
                where=f"training on {self.fabric.device}",
                remedy="use a smaller Training(batch_size=...), with a learning_rate smaller in proportion",
            ) from error

    def _step(self, images: Tensor, labels: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["rate"]
        logits = self.network(images)
        loss = self._objective(images, logits, labels)
        if self.penalty is not None:
            loss = loss + _number(self.penalty(self.module), "penalty")
        self.fabric.backward(loss)
        clip = self.training.clip
        if clip is not None:
            self.fabric.clip_gradients(self.network, self.wrapped, max_norm=clip, error_if_nonfinite=False)
        self.wrapped.step()
        self.wrapped.zero_grad(set_to_none=True)
        return loss.detach(), logits.detach()

    def _objective(self, images: Tensor, logits: Tensor, labels: Tensor | None) -> Tensor:
        teacher_logits = None
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                teacher_logits = self.teacher(images).float()
        if self.loss is not None:
            return _number(self.loss(logits, labels, teacher_logits), "loss")
        assert self.task is not None
        return _loss(self.task, self.training, logits, labels, teacher_logits)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """This process's share of each batch of the epoch, on its device."""
        size, world, rank = self.training.batch_size, self.fabric.world_size, self.fabric.global_rank
        share = slice(rank * size // world, (rank + 1) * size // world)
        generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
        order = self.fitted.numbers[torch.randperm(len(self.fitted), generator=generator)]
        wanted = order[: self.steps * size].split(size)
        generator.manual_seed(derive(self.seed, "augmentation", epoch))
        reading = derive(self.seed, "reading", epoch, rank)
        for images, labels in self.fitted.source.batches([numbers[share] for numbers in wanted], reading):
            images, labels = self._on_device(images, labels)
            if self.training.augment is not None:
                # Drawn for the whole batch, so that an image's augmentation does not depend on the number of processes.
                draws = self.training.augment.draw(torch.Size((size, *images.shape[1:])), generator)
                images = self.training.augment.apply(images, draws.part(share))
            yield _channels_last(images), labels

    def _on_device(self, images: Tensor, labels: Tensor | None) -> Batch:
        device = self.fabric.device
        if labels is not None:
            task = self.task if self.loss is None else None
            labels = each(_plain(labels) if task is None else task.targets(labels), lambda values: values.to(device))
        return images.to(device, torch.float32), labels

    @torch.no_grad()
    def _validate(self, epoch: int) -> tuple[float | None, float | None]:
        if self.checked is None:
            return None, None
        self.module.eval()
        batches = self.checked.numbers.split(self.training.batch_size)
        total, correct = self._zero(torch.float64), self._zero(torch.int64, 2)
        for images, labels in self.checked.source.batches(batches[self.fabric.global_rank :: self.fabric.world_size]):
            images, labels = self._on_device(_channels_last(images), labels)
            with self.fabric.autocast():
                logits = self.module(images)
            logits = logits.float()
            total += self._objective(images, logits, labels) * len(images)
            correct += self._correct(logits, labels)
        loss = self._sum(total) / len(self.checked)
        if not math.isfinite(loss):
            raise self.guard.error(f"the validation loss is {loss}", f"epoch {epoch}")
        return loss, self._accuracy(correct, self.checked)

    def _zero(self, kind: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=kind, device=self.fabric.device)

    def _sum(self, value: Tensor) -> float:
        """The sum over all processes."""
        return self.fabric.all_reduce(value, reduce_op="sum").item()

    def _correct(self, logits: Tensor, labels: Tensor | None) -> Tensor | int:
        if labels is None or self.task is None:
            return 0
        found = self.task.right(logits, labels if self.loss is None else self.task.targets(labels))
        return 0 if found is None else found

    def _accuracy(self, correct: Tensor, part: Part) -> float | None:
        if self.task is None or not self.task.decides or not part.source.labelled:
            return None
        return share(self.fabric.all_reduce(correct, reduce_op="sum"))


def _loss(
    task: Task, training: Training, logits: Tensor, labels: Tensor | None, teacher_logits: Tensor | None
) -> Tensor:
    weight = 0.0 if teacher_logits is None else 1.0 if labels is None else training.teacher_weight
    total = logits.new_zeros(())
    if labels is not None and weight < 1:
        total = (1 - weight) * task.loss(logits, labels, training.label_smoothing)
    if teacher_logits is not None and weight > 0:
        if training.teacher_loss == "squared_error":
            return total + weight * F.mse_loss(logits, teacher_logits)
        total = total + weight * task.distance(logits, teacher_logits, training.temperature)
    return total


def _number(value: Any, where: str) -> Tensor:
    """A number that a user's function returned."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise TrainingError.typed(f"returns {found}", where=where, remedy="return one number as a tensor, such as a mean")


def _learning(network: nn.Module) -> list[TrainableGraph]:
    """The networks in ``network`` that learn their levels."""
    return [part for part in network.modules() if isinstance(part, TrainableGraph) and part.learns_levels]


def _optimiser(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(training.weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in module.named_parameters():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        rates = owner.rates if isinstance(owner, QuantisedActivation | TrainableNeurons) else None
        kept = rates is not None or isinstance(owner, nn.modules.batchnorm._BatchNorm) or name.endswith(_NOT_DECAYED)
        kept = kept and training.decayed == "weights"
        rate = 1.0 if rates is None else rates.get(leaf, 1.0)
        if parameter.requires_grad:
            groups.setdefault((0.0 if kept else training.weight_decay, rate), []).append(parameter)
    param_groups = [
        {"params": parameters, "weight_decay": decay, "rate": rate}
        for (decay, rate), parameters in groups.items()
        if parameters
    ]
    if training.optimiser == "sgd":
        return torch.optim.SGD(param_groups, lr=training.learning_rate, momentum=training.momentum)
    return torch.optim.AdamW(param_groups, lr=training.learning_rate)


def _fabric(
    training: Training, accelerator: str, devices: int | str | list[int], nodes: int, strategy: Literal["auto", "ddp"]
) -> Any:
    """Start Lightning Fabric and its processes."""
    from lightning_fabric import Fabric  # takes seconds to import, and only training needs it

    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=training.precision
        )
        if fabric.device.type == "cpu" and training.precision != "32-true":
            reason = f"is {training.precision!r}, which needs a GPU; this run is on a CPU"
            raise TrainingError(reason, where="precision", remedy='use "32-true"')
        if training.batch_size % fabric.world_size:
            reason = f"is {training.batch_size}, which cannot be divided equally among {fabric.world_size} processes"
            raise TrainingError(reason, where="batch_size", remedy=f"use a multiple of {fabric.world_size}")
        fabric.launch()
    except TrainingError:
        raise
    except Exception as cause:  # the errors of Lightning have no common base class
        first = first_line(cause)
        raise TrainingError(
            f"is {accelerator!r}, which cannot be started with devices={devices!r}, nodes={nodes}, "
            f"strategy={strategy!r} ({first})",
            where="accelerator",
            remedy='use accelerator="auto" and devices=1',
        ) from cause
    return fabric


def _described(network: SpikingNetwork) -> dict[str, Any]:
    """What determines the training of a spiking network besides the settings: T, neurons and weights."""
    neurons = {site.name: network.neuron(site.name) for site in network.sites}
    return {
        "timesteps": network.timesteps,
        "sites": {name: {"kind": neuron.kind, **neuron.config()} for name, neuron in neurons.items()},
        "values": Digest().update(**network.state_dict()).hexdigest(),
    }


def _name(function: object) -> str | None:
    return None if function is None else getattr(function, "__qualname__", type(function).__qualname__)


def _score(record: Epoch, by_accuracy: bool) -> tuple[float, float]:
    loss = math.inf if record.validation_loss is None else record.validation_loss
    return ((by_accuracy and record.validation_accuracy) or 0.0, -loss)


def _plain(labels: Any) -> Any:
    """Labels for a loss: whole numbers as int64, other numbers as float32; truth values stay."""

    def plain(values: Tensor) -> Tensor:
        if values.is_floating_point():
            return values.float()
        return values if values.dtype == torch.bool else values.long()

    return each(labels, plain)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
