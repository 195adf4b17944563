"""The contract of a task: what targets mean, the loss, the distance to another network, and the measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rheobase.core.errors import DataError

IGNORED = -100
"""Target that counts neither in a loss nor in a measure, as in PyTorch's ``ignore_index``."""


@dataclass(frozen=True)
class Measure:
    """A measure of outputs against targets, or against the analog network.

    Attributes:
        name: its name in JSON and CSV.
        heading: its name in tables.
        meaning: its definition, in a clause.
        share: True for a number from 0 to 1, which tables show in per cent.
        best: +1 if higher is better, -1 if lower is better.

    Example:
        >>> Measure("accuracy", "accuracy", "share of right answers", share=True).text(0.975)
        '97.50 %'
    """

    name: str
    heading: str
    meaning: str
    share: bool = False
    best: int = +1

    @property
    def scale(self) -> float:
        """Factor of the numbers in tables."""
        return 100 if self.share else 1

    @property
    def form(self) -> str:
        """Format of the numbers in tables, which are multiplied by ``scale``."""
        return "{:.2f} %" if self.share else "{:.4g}"

    @property
    def title(self) -> str:
        """Heading with the unit."""
        return f"{self.heading} (%)" if self.share else self.heading

    def text(self, value: float) -> str:
        """A value with its unit."""
        return self.form.format(self.scale * value)


AGREEMENT = Measure("agreement", "agreement with ANN", "share of decisions that are those of the ANN", share=True)
"""Share of the decisions of the spiking network that are those of the analog network."""
OUTPUT_ERROR = Measure("logit_error", "output error", "mean of ‖SNN − ANN‖ / ‖ANN‖ over images", best=-1)
"""Relative difference of the outputs of the two networks, the mean over images."""


class Task(ABC):
    """What the outputs of a network are for.

    Shapes are those of one image: outputs ``[C]``, ``[C, H, W]``..., or ``[]`` if a network returns one number. A task
    has no state.

    Attributes:
        name: name in ``task=...``.
        needs: the targets that it needs, as an imperative clause.
        measures: measures of outputs against targets; the first one decides what is best.
        decides: True if outputs are decisions, which can agree with those of another network; they do not change with
            a positive factor on all outputs.
    """

    name: ClassVar[str]
    needs: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    decides: ClassVar[bool] = True

    @property
    def without_targets(self) -> Measure:
        """The measure against the analog network that decides where there are no targets."""
        return AGREEMENT if self.decides else OUTPUT_ERROR

    @abstractmethod
    def fits(self, outputs: Sequence[int]) -> bool:
        """True if a network with outputs of this shape can have the task."""

    @abstractmethod
    def check(self, outputs: Sequence[int], labels: Tensor, where: str, offset: int = 0) -> None:
        """Refuse labels [N, ...] that are no targets for outputs of this shape; images are counted from ``offset``.

        Raises:
            DataError: with the first image at fault.
        """

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """Checked labels as targets for :meth:`loss`."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean loss of outputs [B, ...]; ``smoothing`` is that of the labels."""

    @abstractmethod
    def distance(self, outputs: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Mean distance of outputs to those of another network, [B, ...] each, for distillation; 0 for equal ones."""

    @abstractmethod
    def agreement(self, outputs: Tensor, reference: Tensor) -> Tensor | None:
        """Share of equal decisions for each image, [B]; None for a task without decisions."""

    @abstractmethod
    def right(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Number of right decisions (images, labels or pixels) and of all, [2]; None for a task without decisions."""

    def scores(self, outputs: Sequence[int]) -> Scores:
        """Start to measure outputs of this shape."""
        return Scores(self)


class Scores:
    """The measures of a task, over batches; this class counts the right decisions."""

    def __init__(self, task: Task) -> None:
        self.task, self.counts = task, torch.zeros(2, dtype=torch.int64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch on the CPU: outputs [B, ...] and :meth:`Task.targets`."""
        found = self.task.right(outputs, targets)
        if found is not None:
            self.counts += found

    def compute(self) -> dict[str, float]:
        """The measures by name, of all batches."""
        return {"accuracy": share(self.counts)}


def share(counts: Tensor) -> float:
    """The share of right decisions, of :meth:`Task.right`."""
    right, every = counts.tolist()
    return right / max(every, 1)


def refuse(labels: Tensor, bad: Tensor, reason: str, where: str, offset: int, remedy: str) -> None:
    """Raise a DataError for the first image with a ``bad`` [N, ...] label; ``{}`` in the reason is its value."""
    if bool(bad.any()):
        first = int(bad.flatten(1).any(1).nonzero()[0]) if bad.dim() > 1 else int(bad.nonzero()[0])
        value = labels[first][bad[first]].flatten()[0].item()
        raise DataError(reason.format(value), where=f"label of image {offset + first} of the {where}", remedy=remedy)


def refuse_shape(labels: Tensor, where: str, needs: str) -> None:
    """Raise a DataError for labels of another shape or dtype."""
    reason = f"have shape {list(labels.shape)} and dtype {labels.dtype}"
    raise DataError(reason, where=f"labels of the {where}", remedy=f"give {needs}")


def same_shapes(outputs: Sequence[int]) -> set[tuple[int, ...]]:
    """The shapes of labels with one value for each output; the axis of a single channel may be missing."""
    shape = tuple(outputs)
    return {(), (1,)} if shape == () else {shape, shape[1:]} if shape[0] == 1 else {shape}


def is_finite(labels: Tensor) -> Tensor:
    """True for each label that is a finite number."""
    return torch.isfinite(labels) if labels.is_floating_point() else torch.ones_like(labels, dtype=torch.bool)
