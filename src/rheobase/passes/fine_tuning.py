"""The base of passes that train parameters of a network on its logits."""

from __future__ import annotations

import math
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from rheobase.core.errors import CalibrationError, DivergedError, RecipeError
from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.network.checks import check_one_output
from rheobase.passes.calibration_pass import CalibrationPass, Changes
from rheobase.passes.held_out import Snapshot
from rheobase.tasks import TaskName
from rheobase.training import Augmentation, Training, checkpoint, train

Target = Literal["labels", "ann", "both"]


class FineTuning(CalibrationPass):
    """The base class of passes that train: by AdamW with warm-up and cosine schedule, without weight decay.

    Args:
        target: training target: the logits of the analog network (``ann``: distillation, needs no labels), ``labels``
            (the loss of the task; the paper's cross-entropy), or ``both`` with equal weights. The loss of a regression,
            and its distance to the analog network, is the mean squared error.
        temperature: τ of the distillation; a higher τ gives more weight to the less probable classes.
        epochs: maximum number of epochs over the fitted calibration images.
        learning_rate: maximum learning rate.
        batch_size: images in a step; at most all fitted images.
        warmup: fraction of an epoch in which the learning rate rises.
        clip: maximum norm of the gradient; None: no clipping.
        patience: stop after this number of successive epochs without improvement on the held-out images. Use more than
            1: the learning rate falls until the last epoch, and the largest gain is at the end.
        seed: seed of the order of the images.
    """

    stage: ClassVar[str]
    exact_statistics: ClassVar[bool] = False
    """True if the statistics of batch normalisation are computed again after training."""
    target: Target = "ann"
    temperature: float = Field(default=2.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    batch_size: int = Field(default=64, ge=2)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float | None = Field(default=None, gt=0)
    patience: int = Field(default=3, ge=1)
    seed: int = 0

    @property
    def needs_labels(self) -> bool:
        """True for the targets ``labels`` and ``both``."""
        return self.target != "ann"

    @abstractmethod
    def prepare(self, network: SpikingNetwork, data: CalibrationData, changes: Changes, progress: bool) -> list[str]:
        """Prepare the network; return the names of the parameters to train, or none to skip the stage."""

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Train; keep the best epoch on the held-out images, or revert."""
        self.check(network)
        check_one_output(network.graph, self.stage.rstrip(","))
        if self.needs_labels:
            self._check_labels(network, data)
        started = time.perf_counter()
        changes, original = Changes(), Snapshot(network)
        before = self._loss(network, data)
        names = self.prepare(network, data, changes, progress)
        if not names:
            return changes
        state = self._train(network, data, names, changes, progress)
        try:
            if state is not None:
                self.adopt(network, state)
            after = self._loss(network, data)
        except RecipeError:  # a trained value is out of range for a neuron
            after = math.inf
        checked = f"{len(data.held_out)} held-out" if len(data.held_out) else f"the {len(data.fit)} fitted"
        change = f"loss on {checked} images {before:.4g} -> {after:.4g}"
        if not after <= before:
            original.restore(network)
            change = f"reverted, the original network kept: {change}"
        changes.notes.append(change)
        changes.changed = original.changed(network)
        now, then = network.graph, original.graph
        for node in now.nodes:
            moved = [name for name in node.parameters.values() if not torch.equal(now.tensor(name), then.tensor(name))]
            if moved:
                changes.changed[node.name] = moved
        trained = sum(int(state[name].numel()) for name in names) if state else 0
        changes.notes.append(f"{trained} parameters trained in {time.perf_counter() - started:.0f} s")
        return changes

    @torch.inference_mode()
    def _loss(self, network: SpikingNetwork, data: CalibrationData) -> float:
        """The training loss over the held-out images, or over the fitted ones if none are held out."""
        images, labels = data.held_out, data.held_out_labels
        if len(images) == 0:
            images, labels = data.fit, data.fit_labels
        logits, task = network(images).cpu(), network.task
        total = 0.0
        if self.target != "ann":
            assert labels is not None
            total += float(task.loss(logits, task.targets(labels)))
        if self.target != "labels":
            teacher = torch.cat([network.ann(x.to(network.graph.device)).cpu() for x in images.split(128)])
            total += float(task.distance(logits, teacher, self.temperature))
        return total / 2 if self.target == "both" else total

    def augmentation(self, data: CalibrationData) -> Augmentation | None:
        """Augmentation of the fitted images."""
        return None

    @abstractmethod
    def check(self, network: SpikingNetwork) -> None:
        """Raise a CalibrationError if the pass cannot be applied to the network."""

    @abstractmethod
    def trainable(self, network: SpikingNetwork) -> nn.Module:
        """The network as a differentiable module that maps images to logits, with the parameters to train."""

    @abstractmethod
    def adopt(self, network: SpikingNetwork, state: Mapping[str, Tensor]) -> None:
        """Set the parameters of the network from the state of the trained module."""

    def _train(
        self, network: SpikingNetwork, data: CalibrationData, names: list[str], changes: Changes, progress: bool
    ) -> Mapping[str, Tensor] | None:
        """The state of the best epoch; if training diverged, of the last good epoch, or None."""
        labelled = self.target != "ann"
        held_out = (data.held_out, data.held_out_labels) if labelled else data.held_out
        checked = len(data.held_out) > 0
        batch = min(self.batch_size, len(data.fit))
        if batch < self.batch_size:
            changes.notes.append(f"batch_size reduced to all {batch} fitted images")
        settings = Training(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=batch,
            optimiser="adamw",
            weight_decay=0.0,
            warmup_epochs=self.warmup,
            clip=self.clip,
            keep="best" if checked else "last",
            patience=self.patience if checked else None,
            temperature=self.temperature,
            exact_statistics=self.exact_statistics,
            augment=self.augmentation(data),
        )
        with tempfile.TemporaryDirectory() as folder:
            try:
                trained = train(
                    self.trainable(network),
                    (data.fit, data.fit_labels) if labelled else data.fit,
                    settings,
                    validation=held_out if checked else None,
                    teacher=None if self.target == "labels" else network.ann,
                    parameters=set(names).__contains__,
                    task=cast(TaskName, network.task.name),
                    folder=folder,
                    seed=self.seed,
                    progress=progress,
                )
            except DivergedError as error:
                found = checkpoint.load(Path(folder))
                kept = "state before training" if found is None else "last good state"
                changes.notes.append(f"stopped in {error.where}, the {kept} kept: {error.problem}; {error.remedy}")
                return None if found is None else found.best or found.model
        changes.history = [asdict(epoch) for epoch in trained.history]
        changes.notes.extend(trained.notes)
        return trained.model.state_dict()

    def _check_labels(self, network: SpikingNetwork, data: CalibrationData) -> None:
        """Refuse labels that are not those of the network's task.

        Raises:
            CalibrationError: if there are no labels.
            DataError: if a label does not fit the task, naming the image.
        """
        fit, held_out = data.fit_labels, data.held_out_labels
        if fit is None or held_out is None:
            raise CalibrationError(
                f"{self.stage} needs labels for target={self.target!r}, but the calibration data has none",
                where=self.kind,
                remedy='give (images, labels), or use target="ann"',
            )
        for labels, part in ((fit, "fitted"), (held_out, "held-out")):
            network.task.check(network.ann.output_shape, labels, f"{part} calibration images, in their seeded order")
