"""The jobs of a comparison: trainings, and cells that are converted and measured."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rheobase.comparison.cells import Cell, Delay, EarlyExits, Identity, LayerLoss, Measured, digest, key
from rheobase.comparison.folder import TRAINING_FOLDER
from rheobase.comparison.images import Images
from rheobase.core.errors import (
    CalibrationError,
    DataError,
    ModelError,
    RecipeError,
    RheobaseError,
    RheobaseWarning,
    TraceError,
)
from rheobase.core.versions import versions
from rheobase.data.value_range import MESSAGE
from rheobase.graph import Graph
from rheobase.measure._diagnose import diagnose
from rheobase.measure._early_exit import early_exit
from rheobase.measure._energy import GradedSpikes, energy
from rheobase.measure._evaluate import evaluate
from rheobase.measure._latency import latency
from rheobase.methods import Recipe
from rheobase.methods._convert import convert, quantise
from rheobase.network.checks import check_one_output
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.fused import fusion, set_fusion
from rheobase.tasks import TaskName
from rheobase.training import Training, train

_REFUSALS = (RecipeError, CalibrationError, TraceError, ModelError, DataError)
"""Errors that mean "this method cannot convert this network". Any other error may be transient: the cell is retried."""


def at(recipe: Recipe, timesteps: int, quantised: bool = False) -> Recipe:
    """Return the recipe for another T; unchanged for a network that is already quantised, because its levels set T."""
    return recipe if recipe.activation is not None and quantised else recipe.with_timesteps(timesteps)


LAYER_IMAGES = 16
"""Test images for the loss of every layer. It is a mean over thousands of neurons, and is always simulated."""

Outcome = tuple[nn.Module, float] | str | None
"""A trained network and the seconds of its training, or why it failed; None if it was refused, as each cell will be."""


@dataclass(frozen=True)
class Job:
    """A cell to run.

    ``trained``: the outcome of its training, if that has run.
    """

    method: str
    recipe: Recipe
    timesteps: int
    seed: int
    trained: Outcome | None = None

    def __str__(self) -> str:
        return f"{self.method} T = {self.timesteps}"


@dataclass(frozen=True)
class TrainingJob:
    """A training to run, for all cells with this activation and seed."""

    recipe: Recipe
    seed: int

    def __str__(self) -> str:
        return f"training for {self.recipe.name} T = {self.recipe.timesteps}"


class Runner:
    """Runs cells and trainings, in any process; an error in one does not affect the next."""

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, Images],
        training: Training | None,
        quantised: bool,
        home: Path | None,
        identity: Identity,
        device: str | torch.device | None = None,
    ) -> None:
        self.model, self.parts, self.training, self.quantised = model, parts, training, quantised
        self.home, self.identity, self.device, self.fusion = home, identity, device, fusion()
        self.settings = None if training is None else training.model_dump(mode="json")
        self.trained: dict[str, tuple[nn.Module, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but trained networks, of which a job carries its own."""
        return {**self.__dict__, "trained": {}}

    def __sizeof__(self) -> int:
        """Bytes of the images in memory; Dask sends large arguments once to each worker."""
        return sum(part.nbytes for part in self.parts.values())

    def trains(self, recipe: Recipe) -> bool:
        """True if the recipe needs training."""
        return recipe.activation is not None and not self.quantised

    def key(self, recipe: Recipe, timesteps: int, seed: int) -> str:
        """Return the key of a cell."""
        return key(recipe.to_dict(), self.settings if self.trains(recipe) else None, timesteps, seed)

    def training_name(self, recipe: Recipe, seed: int) -> str:
        """Return a hash of all inputs of the training."""
        assert recipe.activation is not None
        inputs = {"model_sha256", "calibration_sha256", "num_calibration_images", "max_pool", "task"}
        return digest(
            {
                "activation": recipe.activation.model_dump(mode="json"),
                "training": self.settings,
                "seed": seed,
                "from": self.identity.model_dump(include=inputs),
            }
        )

    def run(self, job: Job) -> Cell:
        """Run a cell; the cell has results, or the reason why it has none."""
        if (fault := self._check_process()) is not None:
            return self.failed(job, fault)
        recipe, timesteps, seed = job.recipe, job.timesteps, job.seed
        if isinstance(job.trained, str):
            return self.failed(job, job.trained)
        if job.trained is not None:
            self.trained[self.training_name(recipe, seed)] = job.trained
        try:
            found: dict[str, Any] = {"status": "done", **self._measure(recipe, timesteps, seed)}
        except _REFUSALS as error:
            found = {"status": "refused", "reason": str(error)}
        except Exception as error:  # one failed cell must not lose the others
            return self.failed(job, _said(error))
        return self._cell(job, **found)

    def failed(self, job: Job, reason: str) -> Cell:
        """The cell of a job that has no result, and will be tried again."""
        return self._cell(job, status="failed", reason=" ".join(reason.split()))  # one line, for tables

    def _cell(self, job: Job, **found: Any) -> Cell:
        return Cell(
            method=job.method,
            timesteps=job.timesteps,
            seed=job.seed,
            recipe=job.recipe.to_dict(),
            training=self.settings if self.trains(job.recipe) else None,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=self.identity,
            **found,
        )

    def train(self, job: TrainingJob) -> Outcome:
        """Run a training."""
        if (fault := self._check_process()) is not None:
            return fault
        try:
            return self._trained(job.recipe, job.seed)
        except _REFUSALS:
            return None
        except Exception as error:
            return _said(error)

    def _check_process(self) -> str | None:
        """What is wrong with this process, if it is not the one that has read the data."""
        own, wanted = versions(), self.identity.versions
        different = [f"{name} {own[name]} (not {wanted[name]})" for name in own if own[name] != wanted[name]]
        if different:
            return f"a worker has {', '.join(different)}. Remedy: install the same versions on all machines"
        set_fusion(self.fusion)
        try:
            for part in self.parts.values():
                part.check_reachable()
        except Exception as error:
            return f"a worker cannot read the data: {_said(error)} Remedy: use paths that all machines have"
        return None

    def _measure(self, recipe: Recipe, timesteps: int, seed: int) -> dict[str, Any]:
        recipe = at(recipe, timesteps, self.quantised)
        model, training_seconds, max_pool = self.model, None, self.identity.max_pool
        if self.trains(recipe):  # quantisation has already converted max-pooling
            model, training_seconds = self._trained(recipe, seed)
            max_pool = "refuse"
        began = time.perf_counter()
        network = convert(model, recipe, max_pool=max_pool, sites=self.identity.sites, **self._calibration(seed))
        seconds = time.perf_counter() - began
        steps = _steps(recipe, network, timesteps)
        until = latency(network, steps)
        notes = [f"{p['pass'].get('kind', 'pass')}: {note}" for p in network.provenance.passes for note in p["notes"]]
        if steps != timesteps:
            notes.append(f"T = {timesteps} is the mean over all sites; the largest T of a site is {steps}")
        if until.internal:
            notes.append(f"not in the latency: {until.internal} steps of neurons without input")
        exits = self._early_exit(network, steps, notes) if self.identity.early_exit else None
        return {
            **{part: self._on(part, network, steps) for part in ("test", "validation") if part in self.parts},
            "alphabet": network.alphabet,
            "early_exit": exits,
            "layers": self._layers(network, steps),
            "latency": Delay(first=until.first, final=until.final, streaming=until.streaming),
            "calibration_seconds": seconds,
            "training_seconds": training_seconds,
            "execution": network.execution_mode,
            "notes": notes,
        }

    def _layers(self, network: SpikingNetwork, timesteps: int) -> tuple[LayerLoss, ...]:
        with _no_warning_of_scale():
            found = diagnose(network, self.parts["test"].some(LAYER_IMAGES, 0), timesteps=timesteps)
        return tuple(
            LayerLoss(
                site=row.site,
                error=round(row.percent(row.error.size) / 100, 5),
                own=round(row.percent(row.own.size) / 100, 5),
                cause=row.cause,
            )
            for row in found.rows
        )

    def _early_exit(self, network: SpikingNetwork, timesteps: int, notes: list[str]) -> EarlyExits | None:
        if not network.streams:
            notes.append("no early exit: neurons wait for their whole input, so that there is no answer before the end")
            return None
        parts = {part: self.parts[part].data for part in ("test", "validation")}
        found = early_exit(network, parts["test"], validation=parts["validation"], timesteps=timesteps)
        assert found.at_chosen is not None
        return EarlyExits(chosen=found.at_chosen, all=found.rows)

    def _on(self, part: str, network: SpikingNetwork, timesteps: int) -> Measured:
        identity = self.identity
        options = identity.energy_images, identity.graded_spikes, identity.task
        return measured(network, self.parts[part], timesteps, part, *options)

    def _calibration(self, seed: int) -> dict[str, Any]:
        """Arguments for conversion and quantisation: calibration images, their number and the seed."""
        data, number = self.parts["calibration"].data, self.identity.num_calibration_images
        given = {"calibration": data, "task": self.identity.task, "num_calibration_images": number, "seed": seed}
        return {**given, "device": self.device}

    def _trained(self, recipe: Recipe, seed: int) -> tuple[nn.Module, float]:
        """Return the trained network with the recipe's activation, and the duration of the training in seconds."""
        if self.training is None:
            raise RecipeError(
                "needs a quantised network, because its neurons take levels and thresholds from trained activations",
                remedy="give training=rb.Training(...) (--training FILE), or a quantised and trained network",
            )
        name = self.training_name(recipe, seed)
        if name not in self.trained:
            if isinstance(self.model, Graph):
                check_one_output(self.model, "training")
            network = quantise(self.model, recipe, max_pool=self.identity.max_pool, **self._calibration(seed))
            has_home = self.home is not None and self.home.is_dir()  # another machine may not have it
            folder = cast(Path, self.home) / TRAINING_FOLDER / name if has_home else None
            data, task = self.parts["calibration"].data, self.identity.task
            trained = train(network, data, self.training, task=task, folder=folder, seed=seed)
            self.trained[name] = trained.model, sum(record.seconds for record in trained.history)
        return self.trained[name]


def run_job(runner: Runner, job: Job | TrainingJob) -> Cell | Outcome:
    """Run a job, in any process."""
    return runner.run(job) if isinstance(job, Job) else runner.train(job)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RheobaseError) else f"{type(error).__name__}: {error}"


@contextmanager
def _no_warning_of_scale() -> Iterator[None]:
    """The comparison has warned of images on another scale, once for all cells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{MESSAGE}", RheobaseWarning)
        yield


def measured(
    network: SpikingNetwork,
    images: Images,
    timesteps: int,
    part: str,
    energy_images: int,
    graded_spikes: GradedSpikes,
    task: TaskName,
) -> Measured:
    """Evaluate a network on images, and count its energy on some of them."""
    with _no_warning_of_scale():
        result = evaluate(network, images.data, (timesteps,), task=task)
        spent = energy(network, images.some(energy_images, 0), timesteps=timesteps, graded_spikes=graded_spikes)
    (row,) = result.rows
    if not spent.ann_picojoules > 0:
        raise CalibrationError(
            "has no operation that costs energy, so that the energy ratio is not defined",
            where="analog network",
            remedy="compare on a network with weights",
        )
    numbers = {"logits": row.logit_error, "spike rate": row.spike_rate, "energy": spent.ratio, **row.scores}
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise CalibrationError(
            f"has NaN or infinite {' and '.join(broken)} on the {part} images",
            where="converted network",
            remedy="calibrate on more images, or with a smaller learning rate",
        )
    return Measured(
        **{name: getattr(row, name) for name in ("accuracy", "agreement", "logit_error", "spike_rate", "scores")},
        **{name: getattr(spent, name) for name in ("picojoules", "ann_picojoules", "not_counted")},
        images=result.images,
        ann_accuracy=result.ann_accuracy,
        ann_scores=result.ann_scores,
        energy_ratio=spent.ratio,
        energy_images=spent.images,
    )


def _steps(recipe: Recipe, network: SpikingNetwork, timesteps: int) -> int:
    """Number of time-steps of the run; for a network that was trained for a mean T, the largest T of a site."""
    mean = getattr(recipe.activation, "mean_timesteps", None)
    if mean is None:
        return timesteps
    if mean != timesteps:
        raise RecipeError(
            f"is {mean} in the recipe, but {timesteps} in this cell",
            where="mean_timesteps",
            remedy="leave it out of the recipe, so that each T is trained",
        )
    return network.timesteps
