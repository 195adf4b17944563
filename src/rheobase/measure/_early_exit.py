"""Early exit: each image stops after the first step at which the network is confident."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rheobase.core.checks import check_fraction, is_number
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.progress import track
from rheobase.core.results import Column, Result, Table
from rheobase.data.batches import Batches, Digest, batches, count
from rheobase.measure._walk import check_run, method_of
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.tasks import TASKS

CONFIDENCES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Exit:
    """Results for one confidence.

    Attributes:
        confidence: an image stops after the first step at which its largest softmax probability is at least this;
            None: every image takes all T steps.
        mean_timesteps: mean number of steps over the images.
        accuracy: fraction of correct answers at the step where the image stopped; None without labels.
        agreement: fraction of images with the analog network's class.
        stopped: number of images that stopped after 1, 2, ..., T steps.
    """

    confidence: float | None
    mean_timesteps: float
    accuracy: float | None
    agreement: float
    stopped: tuple[int, ...]

    @property
    def score(self) -> float:
        """Accuracy, or without labels agreement."""
        return self.agreement if self.accuracy is None else self.accuracy


@dataclass(frozen=True)
class EarlyExit(Result):
    """Accuracy against the mean number of time-steps.

    Attributes:
        rows: one for each confidence, in rising order; the last one is for all T steps.
        at_chosen: the row of the confidence with the fewest steps whose score on the validation images is within the
            tolerance; None without validation images.
        validation: the rows of the validation images, or None.
        timesteps: T.
        images: number of images.
        method: name of the recipe.
    """

    rows: tuple[Exit, ...]
    at_chosen: Exit | None
    validation: tuple[Exit, ...] | None
    timesteps: int
    images: int
    method: str

    def table(self) -> Table:
        """One row for each confidence."""
        columns = (
            Column("confidence", "confidence", "{:g}", none="never"),
            Column("mean T", "mean_timesteps", "{:.2f}"),
            *((Column("accuracy", "accuracy", "{:.2f} %", scale=100),) if self.rows[0].accuracy is not None else ()),
            Column("agreement with ANN", "agreement", "{:.2f} %", scale=100),
            Column("", lambda row: "chosen" if row is self.at_chosen else "", align="left"),
        )
        return Table(columns, self.rows, f"{self.method}, T = {self.timesteps}, {self.images} images: early exit")

    def summary(self) -> str:
        """The chosen row."""
        row = self.at_chosen
        if row is None:
            return "No confidence is chosen: give validation images."
        confidence = "All images take all steps" if row.confidence is None else f"Confidence {row.confidence:g}"
        return f"{confidence}, chosen on validation images: {row.mean_timesteps:.2f} of {self.timesteps} steps."


def early_exit(
    network: SpikingNetwork,
    data: Batches,
    *,
    confidences: Sequence[float] = CONFIDENCES,
    validation: Batches | None = None,
    tolerance: float = 0.005,
    timesteps: int | None = None,
    progress: bool = False,
) -> EarlyExit:
    r"""Measure the accuracy if each image stops as soon as the network is confident.

    With the logits :math:`o[t]` after t steps, an image stops after the first t at which
    :math:`\max_c \mathrm{softmax}(o[t])_c \ge \kappa`, at T at the latest (Li et al. 2023, "SEENN: towards temporal
    spiking early-exit neural networks", SEENN-I; the rule of AdaFire, Wang et al. 2025). A batch is simulated until
    all its images have stopped at every confidence.

    Args:
        network: a converted network that streams, for classes.
        data: test images, with or without labels.
        confidences: κ to report.
        validation: other images than ``data``, on which κ is chosen: that with the fewest steps whose accuracy (without
            labels: agreement) is at most ``tolerance`` below that of all T steps.
        tolerance: a fraction of the images.
        timesteps: T; default that of the conversion.
        progress: show a progress bar.

    Raises:
        RecipeError: if the network does not stream, so that it has no answer before T; if its task is not
            classification; or if an argument is invalid.
        DataError: if the images or labels do not fit, or the validation images are the test images.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(8, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> found = rb.measure.early_exit(snn, images, confidences=(0.5,))
        >>> found.rows[-1].mean_timesteps
        4.0
    """
    check_converted(network)
    network = network.select()
    steps = check_run(network, timesteps)
    if not network.streams:
        raise RecipeError(
            "has sites that wait for their whole input, and so no answer before the last step",
            where="network",
            remedy="use a method that streams, such as rb.Graded or rb.FTBC",
        )
    if network.task.name != "classification":
        raise RecipeError(
            f"has the task {network.task.name}, for which no confidence is defined",
            where="network",
            remedy='use early exit for classification only; if these are classes, convert with task="classification"',
        )
    grid = [*_confidences(confidences), None]
    check_fraction(tolerance, "tolerance")
    rows, images, digest = _rows(network, data, grid, steps, "test data", progress)
    chosen = judged = None
    if validation is not None:
        judged, _, other = _rows(network, validation, grid, steps, "validation data", progress)
        if other == digest:
            remedy = "give other images, such as training images that were not used to calibrate"
            raise DataError(
                "are the test images, on which nothing may be chosen", where="validation data", remedy=remedy
            )
        allowed = [(row.mean_timesteps, i) for i, row in enumerate(judged) if row.score >= judged[-1].score - tolerance]
        chosen = rows[min(allowed)[1]]
    return EarlyExit(rows, chosen, judged, steps, images, method_of(network))


def _confidences(values: Any) -> list[float]:
    remedy = "give numbers above 0, up to 1, such as (0.9, 0.99)"
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise RecipeError.typed(f"is {values!r}", where="confidences", remedy=remedy)
    found = list(values)
    for value in found:
        if not is_number(value) or not 0 < value <= 1:
            raise RecipeError(f"has {value!r}", where="confidences", remedy=remedy)
    if not found:
        raise RecipeError("is empty", where="confidences", remedy=remedy)
    return sorted(set(map(float, found)))


def _rows(
    network: SpikingNetwork, data: Batches, grid: Sequence[float | None], steps: int, where: str, progress: bool
) -> tuple[tuple[Exit, ...], int, str]:
    """One row for each confidence, the number of images, and the hash of their values."""
    task = TASKS["classification"]
    stopped = torch.zeros(len(grid), steps, dtype=torch.int64)
    correct, agreed = torch.zeros(2, len(grid), dtype=torch.int64)
    seen, labelled, digest = 0, False, Digest()
    limits = torch.tensor([math.inf if confidence is None else confidence for confidence in grid], dtype=torch.float64)
    size = network.sub_batch_size(1)
    for batch, targets in track(batches(data, where=where), "early exit", show=progress, total=count(data)):
        digest.update(images=batch)
        if targets is not None:
            task.check(network.ann.output_shape, targets, where, seen)
            labelled = True
        for start in range(0, len(batch), size):
            images = network.check_images(batch[start : start + size])
            labels = None if targets is None else targets[start : start + size]
            reference = network.ann(images).argmax(1).cpu()
            for t, predicted, now in _exits(network, images, limits, steps):
                stopped[:, t - 1] += now.sum(1)
                agreed += (now & (predicted == reference)).sum(1)
                correct += 0 if labels is None else (now & (predicted == labels)).sum(1)
        seen += len(batch)
    mean = stopped.double() @ torch.arange(1, steps + 1).double() / seen
    rows = (
        Exit(
            confidence=confidence,
            mean_timesteps=float(mean[i]),
            accuracy=int(correct[i]) / seen if labelled else None,
            agreement=int(agreed[i]) / seen,
            stopped=tuple(stopped[i].tolist()),
        )
        for i, confidence in enumerate(grid)
    )
    return tuple(rows), seen, digest.hexdigest()


def _exits(
    network: SpikingNetwork, images: Tensor, thresholds: Tensor, steps: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each step t: (t, classes [B], which images stop now at each confidence [K, B])."""
    waiting = torch.ones(len(thresholds), len(images), dtype=torch.bool)
    for t, logits in network.stream(images, steps):
        confidence, predicted = logits.double().softmax(1).max(1)
        sure = confidence.cpu() >= thresholds[:, None]
        now = waiting & (sure if t < steps else True)
        waiting = waiting & ~now
        yield t, predicted.cpu(), now
        if not waiting.any():
            return
