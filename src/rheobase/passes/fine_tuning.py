"""Passes that train a few parameters of a parallel network on its logits: the two stages of DA calibration."""

from __future__ import annotations

import math
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rheobase.core.errors import CalibrationError, DivergedError, RecipeError
from rheobase.data.batches import check_labels
from rheobase.data.calibration_data import CalibrationData
from rheobase.graph.graph import Graph
from rheobase.graph.trainable import TrainableGraph
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import ParallelIF
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.da_qcfs import DAQCFS, Surrogate
from rheobase.passes.held_out import Snapshot
from rheobase.training import Training, checkpoint, train

Target = Literal["labels", "ann", "both"]


class FineTuning(CalibrationPass):
    """The base class of both stages: training by AdamW with warm-up and cosine schedule, without weight decay.

    Args:
        target: training target: the logits of the analog network (``ann``: distillation, needs no labels), ``labels``
            (the paper's cross-entropy), or ``both`` with equal weights.
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
    target: Target = "ann"
    temperature: float = Field(default=2.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    batch_size: int = Field(default=64, ge=2)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float | None = Field(default=None, gt=0)
    patience: int = Field(default=3, ge=1)
    seed: int = 0

    @abstractmethod
    def prepare(self, network: SpikingNetwork, data: CalibrationData, changes: Changes, progress: bool) -> list[str]:
        """Prepare the network; return the names of the parameters to train, or none to skip the stage."""

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Train; keep the best epoch on the held-out images, or revert."""
        for site in network.sites:
            settable(network, site, *DAQCFS.TRAINED)
        if self.target != "ann" and data.fit_labels is None:
            raise CalibrationError(
                f"{self.stage} needs labels for target={self.target!r}, but the calibration data has none",
                where=self.kind,
                remedy='give (images, labels), or use target="ann"',
            )
        data = _with_checked_labels(network, data) if self.target != "ann" else data
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
        changes.changed = self.changed(network, original)
        trained = sum(int(state[name].numel()) for name in names) if state else 0
        changes.notes.append(f"{trained} parameters trained in {time.perf_counter() - started:.0f} s")
        return changes

    @torch.inference_mode()
    def _loss(self, network: SpikingNetwork, data: CalibrationData) -> float:
        """The training loss over the held-out images, or over the fitted ones if none are held out."""
        images, labels = data.held_out, data.held_out_labels
        if len(images) == 0:
            images, labels = data.fit, data.fit_labels
        logits = network(images).cpu()
        total = 0.0
        if self.target != "ann":
            assert labels is not None
            total += float(F.cross_entropy(logits, labels))
        if self.target != "labels":
            teacher = torch.cat([network.ann(x.to(network.graph.device)).cpu() for x in images.split(128)])
            student, wanted = (F.log_softmax(x / self.temperature, 1) for x in (logits, teacher))
            divergence = F.kl_div(student, wanted, reduction="batchmean", log_target=True)
            total += self.temperature**2 * float(divergence)
        return total / 2 if self.target == "both" else total

    @abstractmethod
    def module(self, network: SpikingNetwork, site: int) -> DAQCFS:
        """The trainable activation for the neurons of a site."""

    @property
    def exact_statistics(self) -> bool:
        """True if the statistics of batch normalisation must be computed again after training."""
        return False

    def adopt(self, network: SpikingNetwork, state: Mapping[str, Tensor]) -> None:
        """Set the trained parameters of the network."""
        device = network.graph.device
        tensors = {name: state[name].to(device) for name in network.graph.tensor_names if name in state}
        network.graph = network.graph.replace(tensors=tensors)
        for site in network.sites:
            neuron = network.neuron(site.name)
            silent, changed = neuron.amplitude.isinf(), {}
            for name, found in DAQCFS.trained(state, site.name).items():
                value, given = found.to(device), getattr(neuron, name)
                if given is not None or bool(value.any()):
                    changed[name] = torch.where(silent, 0.0 if given is None else given, value)
            neuron.set(**changed)

    def changed(self, network: SpikingNetwork, original: Snapshot) -> dict[str, list[str]]:
        """Names of the changed parameters of each site's neurons, and of each operation."""
        found = original.changed(network)
        if network.graph is not original.graph:
            for node in network.graph.nodes:
                moved = [
                    name
                    for name in node.parameters.values()
                    if not torch.equal(network.graph.tensor(name), original.graph.tensor(name))
                ]
                if moved:
                    found[node.name] = moved
        return found

    def _train(
        self, network: SpikingNetwork, data: CalibrationData, names: list[str], changes: Changes, progress: bool
    ) -> Mapping[str, Tensor] | None:
        """The state of the best epoch; if training diverged, of the last good epoch, or None."""
        modules: Any = {site.name: self.module(network, site.index) for site in network.sites}
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
        )
        module = self.trainable(network.graph, modules)
        with tempfile.TemporaryDirectory() as folder:
            try:
                trained = train(
                    module,
                    (data.fit, data.fit_labels) if labelled else data.fit,
                    settings,
                    validation=held_out if checked else None,
                    teacher=None if self.target == "labels" else network.ann,
                    parameters=set(names).__contains__,
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

    def trainable(self, graph: Graph, modules: Any) -> TrainableGraph:
        """The network that is trained."""
        return TrainableGraph(graph, modules)


def _module(network: SpikingNetwork, index: int, surrogate: Surrogate, band: float = 0.5) -> DAQCFS:
    site = network.sites[index]
    neuron = cast(ParallelIF, network.neuron(site.name))
    return DAQCFS(neuron, site.channels, network.steps_of(site.name), surrogate, band)


def _with_checked_labels(network: SpikingNetwork, data: CalibrationData) -> CalibrationData:
    """The data with int64 labels.

    Raises:
        DataError: if a label is not a class of the network, naming the image.
    """
    classes = next(node.shape[0] for node in network.graph.nodes if node.name == network.graph.output)
    fit, held_out = cast(Tensor, data.fit_labels), cast(Tensor, data.held_out_labels)
    check_labels(fit, "fitted calibration images, in their seeded order", classes)
    check_labels(held_out, "held-out calibration images, in their seeded order", classes)
    return replace(data, fit_labels=fit.long(), held_out_labels=held_out.long())
