"""Accuracy or other scores, agreement with the analog network, logit error, spike rate for each number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import cast

import torch
from rich.console import Console
from torch import Tensor

from rheobase.core.checks import check_flag
from rheobase.core.errors import RecipeError
from rheobase.core.progress import track
from rheobase.core.results import Column, Result, Table
from rheobase.core.versions import versions
from rheobase.data.batches import Batches, Digest, batches, count
from rheobase.data.value_range import ValueRange, warn_of_another_scale
from rheobase.graph.sites import Site
from rheobase.measure._early_exit import EarlyExit, Exits, check_classes
from rheobase.measure._walk import method_of
from rheobase.network.spiking_network import Execution, SpikingNetwork, check_converted
from rheobase.neurons.response import Alphabet
from rheobase.signals.signal import Signal, SpikeTrain, count_spikes, count_spikes_by_step
from rheobase.tasks import TASKS, Measure, Scores, TaskName, assumption, task_for


@dataclass(frozen=True)
class Row:
    """Results after ``timesteps`` steps.

    Attributes:
        timesteps: t, number of time-steps.
        accuracy: share of right decisions: of images, labels or pixels by the task; for a classification, the images
            whose largest logit is the label's. None without labels, or for a regression.
        agreement: share of the decisions that the analog network makes too, such as images with the same class; None
            for a regression, whose agreement is the ``logit_error``.
        logit_error: mean over images of ‖SNN − ANN‖₂ / ‖ANN‖₂ of the outputs.
        spike_rate: spikes per neuron and step, mean over all neurons and the steps of each. Spikes of either sign
            count, and k emitted at once count k times (:func:`rheobase.signals.count_spikes`).
        mean_timesteps: mean of the sites' time-steps; equal to t if all sites run for t steps.
        event_rate: events per neuron and step; less than ``spike_rate`` if neurons emit several spikes at once.
        scores: all measures of the task (:attr:`rheobase.tasks.Task.measures`) by name, such as ``miou``; empty without
            labels.
    """

    timesteps: int
    accuracy: float | None
    agreement: float | None
    logit_error: float
    spike_rate: float
    mean_timesteps: float
    event_rate: float
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation(Result):
    """Results for several numbers of time-steps, and the analog network's accuracy.

    Attributes:
        rows: one for each number of time-steps.
        ann_accuracy: accuracy of the analog network, like that of the rows.
        images: number of images.
        method: name of the recipe.
        site_rates: spikes per neuron and step of each site, at the largest T.
        data_sha256: hash of images and labels.
        seed: of the conversion.
        alphabet: the numbers of spikes that a neuron may emit in one step, over all sites.
        versions: of the packages that the numbers depend on.
        execution: ``"steps"``: simulation; ``"counts"``: closed form.
        task: name of the task.
        ann_scores: measures of the analog network.
        assumed: a note if the task was neither given nor certain.
        early_exit: accuracy against the mean number of steps; None if it was not asked for.
    """

    rows: tuple[Row, ...]
    ann_accuracy: float | None
    images: int
    method: str
    site_rates: dict[str, float]
    data_sha256: str
    seed: int
    alphabet: Alphabet
    versions: dict[str, str] = field(default_factory=dict)
    execution: Execution = "steps"
    task: TaskName = "classification"
    ann_scores: dict[str, float] = field(default_factory=dict)
    assumed: str = ""
    early_exit: EarlyExit | None = None

    def table(self) -> Table:
        """One row for the analog network, then one for each number of time-steps."""
        task = TASKS[self.task]
        mixed = any(row.mean_timesteps != row.timesteps for row in self.rows)
        graded = any(row.event_rate != row.spike_rate for row in self.rows)
        columns = (
            Column("T", "timesteps"),
            *((Column("mean T", "mean_timesteps", "{:.2f}"),) if mixed else ()),
            *(_column(measure) for measure in task.measures if self.ann_scores or measure.name == "accuracy"),
            *((Column("agreement with ANN", "agreement", "{:.2f} %", scale=100),) if task.decides else ()),
            Column("logit error" if task.decides else "output error", "logit_error", "{:.3f}"),
            Column("spikes / neuron / step", "spike_rate", "{:.4f}"),
            *((Column("events / neuron / step", "event_rate", "{:.4f}"),) if graded else ()),
        )
        named = "" if self.task == "classification" else f", task: {self.task}"
        title = f"{self.method} on {self.images} images (execution: {self.execution}{named})"
        return Table(columns, (SimpleNamespace(timesteps="ANN", scores=self.ann_scores), *self.rows), title)

    def summary(self) -> str:
        """The alphabet, and a task that is assumed."""
        return "\n".join(filter(None, (f"Alphabet {self.alphabet.label}.", self.assumed)))

    def to_markdown(self) -> str:
        """Both tables, with their captions."""
        parts = [super().to_markdown(), *([] if self.early_exit is None else [self.early_exit.to_markdown()])]
        return "\n\n".join(parts)

    def print(self, console: Console) -> None:
        """Print both tables."""
        super().print(console)
        if self.early_exit is not None:
            self.early_exit.print(console)


def _column(measure: Measure) -> Column:
    return Column(measure.heading, lambda row: row.scores.get(measure.name), measure.form, scale=measure.scale)


@torch.no_grad()
def evaluate(
    network: SpikingNetwork,
    data: Batches,
    timesteps: Sequence[int] | None = None,
    *,
    task: TaskName | None = None,
    early_exit: bool = False,
    validation: Batches | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure a spiking network on test data.

    One simulation of the largest T gives the results for all smaller ones: the logits after t steps do not depend on
    the steps after t. A network with waiting neurons runs once for each T.

    Args:
        network: a converted network. Of several outputs, the one named "logits" or "out" is measured; another one with
            ``network.select("aux")``.
        data: (images, labels) in batches; without labels no accuracy or other score is reported.
        timesteps: numbers of time-steps to report; default 1, 2, 4, ... and the T of the conversion, as far as the
            network can run for them (a network with biases for T steps runs for T only). If sites have different T,
            the number is the largest T, and a multiple of it scales the T of every site.
        task: what the outputs are for: ``"classification"``, ``"binary"`` (one logit), ``"multilabel"``,
            ``"regression"`` or ``"segmentation"``, which decides on the scores (:mod:`rheobase.tasks`). Default: that
            of the conversion, or as inferred from the labels; without labels, several outputs are logits of classes,
            one output is a quantity.
        early_exit: also measure the accuracy if each image stops as soon as the network is confident, within the
            largest T (:func:`rheobase.measure.early_exit`).
        validation: other images, on which the confidence of the early exit is chosen.
        progress: show a progress bar with the time left.

    Raises:
        DataError: if the data is empty, of another shape or dtype, or labels do not fit the task or leave it open, such
            as one that is not one of the network's classes.
        RecipeError: if the network cannot run for one of the numbers of time-steps, early exit is asked of a network
            that waits or of another task than classification, or validation images are given without it.

    Warns:
        RheobaseWarning: if the images are on another scale than the calibration images.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> [row.timesteps for row in rb.evaluate(snn, (images, labels)).rows]
        [1, 2, 4]
    """
    check_converted(network)
    network = network.select()
    if timesteps is None:
        timesteps = [t for t in default_timesteps(network.timesteps) if network.runs_for(t)]
    wanted = tuple(sorted(set(network.step_counts(timesteps))))
    execution, digest = network.execution_mode, Digest()
    runs = [wanted] if network.streams else [(t,) for t in wanted]
    check_flag(early_exit, "early_exit")
    exits = Exits(network, wanted[-1]) if early_exit else None
    if exits is None and validation is not None:
        raise RecipeError(
            "have no effect without early_exit",
            where="validation images",
            remedy="add early_exit=True, or leave them out",
        )
    agree, error = torch.zeros(2, len(wanted), dtype=torch.float64)
    spikes, events = counts = torch.zeros(2, len(network.sites), len(wanted), dtype=torch.float64)

    def add_spikes(run: tuple[int, ...], site: Site, emitted: Signal) -> None:
        counts[:, site.index, [wanted.index(t) for t in run]] += _spikes_after(run, emitted, network.streams)

    seen = 0
    outputs, known, found = network.ann.output_shape, network.provenance.task, None
    ann_scores: Scores | None = None
    scores: list[Scores] = []
    values = ValueRange()
    for images, labels in track(batches(data, where="test data"), "evaluating", show=progress, total=count(data)):
        digest.update(images=images, labels=labels)
        logits = torch.cat([network.readouts(images, run, monitor=partial(add_spikes, run)) for run in runs]).cpu()
        reference = network.ann(images.to(network.graph.device)).cpu()
        values.add(images)
        found = found or task_for(task, outputs, labels, "test data", known=known)
        for i in range(len(wanted) if found.decides else 0):
            agree[i] += cast(Tensor, found.agreement(logits[i], reference)).sum()
        difference = (logits - reference).flatten(2).double().norm(dim=2)
        error += (difference / reference.flatten(1).double().norm(dim=1).clamp(min=1e-30)).sum(1)
        if labels is not None:
            found.check(outputs, labels, "test data", seen)
            if ann_scores is None:
                ann_scores, *scores = (found.scores(outputs) for _ in (None, *wanted))
            for one, answers in zip((ann_scores, *scores), (reference, *logits), strict=True):
                one.update(answers, found.targets(labels).cpu())
        if exits is not None:
            check_classes(found.name)
            exits.add(images, reference, labels)
        seen += len(images)
    assert found is not None  # the data are not empty
    of_ann = {} if ann_scores is None else ann_scores.compute()
    of_rows = [one.compute() for one in scores] or [{} for _ in wanted]

    judged = None
    if exits is not None and validation is not None:
        judged = Exits(network, exits.steps).add_all(validation, "validation data", progress)
    warn_of_another_scale(values, network.provenance.calibration.get("values"), "test data")

    def places(sites: Sequence[Site], t: int) -> int:
        return seen * sum(site.neurons * network.steps_of(site.name, t) for site in sites)

    rows = (
        Row(
            timesteps=t,
            accuracy=of_rows[i].get("accuracy"),
            agreement=float(agree[i]) / seen if found.decides else None,
            logit_error=float(error[i]) / seen,
            spike_rate=float(spikes.sum(0)[i]) / places(network.sites, t),
            mean_timesteps=network.mean_steps(t),
            event_rate=float(events.sum(0)[i]) / places(network.sites, t),
            scores=of_rows[i],
        )
        for i, t in enumerate(wanted)
    )
    return Evaluation(
        rows=tuple(rows),
        ann_accuracy=of_ann.get("accuracy"),
        images=seen,
        method=method_of(network),
        site_rates={site.name: float(spikes[site.index, -1]) / places([site], wanted[-1]) for site in network.sites},
        data_sha256=digest.hexdigest(),
        seed=network.provenance.seed,
        alphabet=network.alphabet,
        versions=versions(),
        execution=execution,
        task=cast(TaskName, found.name),
        ann_scores=of_ann,
        early_exit=None if exits is None else exits.result(judged),
        assumed=assumption(outputs) if not (task or known or of_ann) else "",
    )


def _spikes_after(run: tuple[int, ...], emitted: Signal, streams: bool) -> Tensor:
    """Magnitude and events of a site after each number of time-steps of a run, [2, R]."""
    if not streams:
        whole = count_spikes(emitted)
        return torch.stack([whole.magnitude.sum(), whole.events.sum()]).cpu()[:, None]
    assert isinstance(emitted, SpikeTrain)
    by_step = count_spikes_by_step(emitted)
    return torch.stack([by_step.magnitude, by_step.events]).cumsum(1).cpu()[:, [t - 1 for t in run]]


def default_timesteps(longest: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and ``longest``."""
    return tuple(sorted({1 << i for i in range(longest.bit_length())} | {longest}))
