"""Early exit: each image stops after the first step at which the network is confident."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
TOLERANCE = 0.005
"""Loss of accuracy that a chosen confidence may cost on the validation images."""


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
    tolerance: float = TOLERANCE,
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
    check_classes(network.task.name)
    steps, grid = check_run(network, timesteps), _confidences(confidences)
    check_fraction(tolerance, "tolerance")
    found = Exits(network, steps, grid).add_all(data, "test data", progress)
    if validation is None:
        return found.result()
    return found.result(Exits(network, steps, grid).add_all(validation, "validation data", progress), tolerance)


def check_classes(task: str) -> None:
    """Refuse another task than classification."""
    if task != "classification":
        raise RecipeError(
            f"has the task {task}, for which no confidence is defined",
            where="network",
            remedy='use early exit for classification only; if these are classes, convert with task="classification"',
        )


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


class Exits:
    """Counts the images that stop after each step, and their right answers, for several confidences.

    Raises:
        RecipeError: if the network has no answers before T.
    """

    def __init__(self, network: SpikingNetwork, steps: int, confidences: Sequence[float] = CONFIDENCES) -> None:
        if not network.streams:
            raise RecipeError(
                "has sites that wait for their whole input, and so no answer before the last step",
                where="network",
                remedy="use a method that streams, such as rb.Graded or rb.FTBC",
            )
        self.network, self.steps = network, steps
        self.confidences: tuple[float | None, ...] = (*confidences, None)
        self._limits = torch.tensor([*confidences, math.inf], dtype=torch.float64)[:, None]
        self._stopped = torch.zeros(len(self._limits), steps, dtype=torch.int64)
        self._correct, self._agreed = torch.zeros(2, len(self._limits), dtype=torch.int64)
        self._seen, self._labelled, self._digest = 0, False, Digest()

    def add(self, images: Tensor, reference: Tensor, labels: Tensor | None) -> None:
        """Run images step by step until all have stopped; ``reference`` are the analog network's logits."""
        self._digest.update(images=images)
        self._seen += len(images)
        self._labelled = labels is not None
        size = self.network.sub_batch_size(1)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            self._add(images[part], reference[part].argmax(1).cpu(), None if labels is None else labels[part].cpu())

    def _add(self, images: Tensor, agreed: Tensor, correct: Tensor | None) -> None:
        waiting = torch.ones(len(self._limits), len(images), dtype=torch.bool)
        for t, logits in self.network.stream(images, self.steps):
            probabilities = logits.double().softmax(1).max(1)
            predicted = probabilities.indices.cpu()
            now = waiting & (probabilities.values.cpu() >= self._limits if t < self.steps else True)
            waiting &= ~now
            self._stopped[:, t - 1] += now.sum(1)
            self._agreed += (now & (predicted == agreed)).sum(1)
            self._correct += 0 if correct is None else (now & (predicted == correct)).sum(1)
            if not waiting.any():
                return

    def add_all(self, data: Batches, where: str, progress: bool) -> Exits:
        """Add all images of the data."""
        task = TASKS["classification"]
        for images, labels in track(batches(data, where=where), "early exit", show=progress, total=count(data)):
            if labels is not None:
                task.check(self.network.ann.output_shape, labels, where, self._seen)
            images = self.network.check_images(images)
            self.add(images, self.network.ann(images), labels)
        return self

    def rows(self) -> tuple[Exit, ...]:
        """One row for each confidence, of all images so far."""
        mean = self._stopped.double() @ torch.arange(1, self.steps + 1).double() / self._seen
        return tuple(
            Exit(
                confidence=confidence,
                mean_timesteps=float(mean[i]),
                accuracy=int(self._correct[i]) / self._seen if self._labelled else None,
                agreement=int(self._agreed[i]) / self._seen,
                stopped=tuple(self._stopped[i].tolist()),
            )
            for i, confidence in enumerate(self.confidences)
        )

    def result(self, judged: Exits | None = None, tolerance: float = TOLERANCE) -> EarlyExit:
        """The result, with the confidence that is chosen on the images of ``judged``; they must be other images."""
        rows, chosen, validation = self.rows(), None, None
        if judged is not None:
            if judged._digest.hexdigest() == self._digest.hexdigest():
                remedy = "give other images, such as training images that were not used to calibrate"
                raise DataError(
                    "are the test images, on which nothing may be chosen", where="validation data", remedy=remedy
                )
            validation = judged.rows()
            chosen = rows[fewest_steps(validation, tolerance)]
        return EarlyExit(rows, chosen, validation, self.steps, self._seen, method_of(self.network))


def fewest_steps(rows: Sequence[Exit], tolerance: float = TOLERANCE) -> int:
    """Return the row with the fewest steps whose score is at most ``tolerance`` below that of all T steps."""
    allowed = [(row.mean_timesteps, i) for i, row in enumerate(rows) if row.score >= rows[-1].score - tolerance]
    return min(allowed)[1]
