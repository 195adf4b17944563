"""Calibration images: those to fit on, and the held-out ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rheobase.core.seeds import generator
from rheobase.data.batches import Batches, Digest, check_images
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES, classes_of, sample
from rheobase.data.sources import InMemory
from rheobase.data.value_range import ValueRange

HELD_OUT = 0.2
MAX_HELD_OUT = 2000
"""Upper limit, because every pass is measured on the held-out images."""
_LISTED = 10


@dataclass(frozen=True)
class CalibrationData:
    """Calibration images, split into images to fit on and held-out images.

    Attributes:
        fit: images that passes fit parameters to, [N, ...], in random order, so the first n are a random sample.
        held_out: images that only judge; empty if there are fewer than five images in total.
        fit_labels: class of each fitted image, or None.
        held_out_labels: class of each held-out image, or None.
        digest: SHA-256 of images and labels, before the split.
        complete: True if these are all given images, False if they are a sample.
        given: number of images in the given data.
        classes: all labels that were read, including those of images outside the sample.
    """

    fit: Tensor
    held_out: Tensor
    fit_labels: Tensor | None
    held_out_labels: Tensor | None
    digest: str
    complete: bool
    given: int = 0
    classes: frozenset[int] = frozenset()

    @classmethod
    def pool(
        cls, data: Batches | Dataset[Any], *, num_calibration_images: int = NUM_CALIBRATION_IMAGES, seed: int = 0
    ) -> CalibrationData:
        """Draw a seeded random sample (:func:`rheobase.data.sampling.sample`) and split it by a seeded shuffle.

        Raises:
            DataError: if there is no image, one holds NaN, shapes differ, or only some images have labels.
            RecipeError: if ``num_calibration_images`` or ``seed`` is invalid.
        """
        where = "calibration data"
        drawn = sample(data, num_calibration_images, seed, where=where)
        images, labels = drawn.images, drawn.labels
        check_images(images, where, drawn.numbers)
        order = torch.randperm(len(images), generator=generator(seed))
        cut = min(int(len(images) * HELD_OUT), MAX_HELD_OUT)
        (fit, fit_labels), (held_out, held_out_labels) = InMemory(images, labels).batches([order[cut:], order[:cut]])
        return cls(
            fit,
            held_out,
            fit_labels,
            held_out_labels,
            Digest().update(images=images, labels=labels).hexdigest(),
            complete=len(images) == drawn.given,
            given=drawn.given,
            classes=drawn.classes,
        )

    def __len__(self) -> int:
        return len(self.fit) + len(self.held_out)

    def values(self) -> ValueRange:
        """Range, mean and deviation of the values of all calibration images."""
        found = ValueRange().add(self.fit)
        return found.add(self.held_out) if len(self.held_out) else found

    def missing_classes(self, outputs: int | None = None) -> str | None:
        """A note on classes without a calibration image, with a remedy; None if chance explains them.

        Args:
            outputs: number of classes of the network; None if its output is not logits.
        """
        if self.fit_labels is None or self.held_out_labels is None:
            return None
        labels = torch.cat([self.fit_labels, self.held_out_labels])
        missing = missing_classes(labels, self.classes | set(range(outputs or 0)))
        if not missing:
            return None
        names = ", ".join(map(str, missing[:_LISTED])) + (", ..." if len(missing) > _LISTED else "")
        known = len(missing) + len(classes_of(labels))
        seen = self.classes.issuperset(missing)
        remedy = f"raise num_calibration_images above {len(self)}" if seen else "give training images of every class"
        return (
            f"calibration data: {len(missing)} of {known} classes have no calibration image ({names}). Remedy: {remedy}"
        )


def missing_classes(labels: Tensor, known: Iterable[int]) -> list[int]:
    """The known classes without a label, if they are more than chance explains; else an empty list.

    Of C equally frequent classes, n random images miss C(1 − 1/C)ⁿ on average. More than three standard deviations
    above this mean are not explained by chance.

    Example:
        >>> missing_classes(torch.arange(5).repeat(8), range(10))
        [5, 6, 7, 8, 9]
        >>> missing_classes(torch.arange(5), range(10))
        []
    """
    present = classes_of(labels)
    missing = sorted(set(known) - present)
    if not present or not missing:
        return []
    count = len(missing) + len(present)
    one, two = (1 - 1 / count) ** len(labels), (1 - 2 / count) ** len(labels)  # that a class, or two, do not occur
    mean = count * one
    variance = mean + count * (count - 1) * two - mean**2
    return missing if len(missing) > mean + 3 * max(variance, 0.0) ** 0.5 else []
