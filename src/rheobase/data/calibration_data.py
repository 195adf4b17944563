"""The images a conversion is calibrated on, and those held out to check it."""

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

HELD_OUT = 0.2
MAX_HELD_OUT = 2000
"""More would only make every pass's measurement slower."""
_LISTED = 10


@dataclass(frozen=True)
class CalibrationData:
    """Calibration images, split once into a part to fit on and a part to check on.

    Attributes:
        fit: images that passes may fit parameters to, [N, ...], in random order: the first n are a random sample too.
        held_out: images they never see; empty when there are fewer than five images in all.
        fit_labels: class of each fitted image, or None.
        held_out_labels: likewise.
        digest: SHA-256 of images and labels, before the split.
        complete: whether these are all the images that were given, and not a sample of them.
        given: how many images were given.
        classes: every label that was seen on the way, of images outside the sample too where those were read.
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
            RecipeError: if the number or the seed is impossible.
        """
        where = "calibration data"
        drawn = sample(data, num_calibration_images, seed, where=where)
        images, labels = drawn.images, drawn.labels
        check_images(images, where, drawn.numbers)
        digest = Digest()
        digest.update(images=images, labels=labels)
        order = torch.randperm(len(images), generator=generator(seed))
        cut = min(int(len(images) * HELD_OUT), MAX_HELD_OUT)
        held, fit = order[:cut], order[cut:]
        return cls(
            images[fit],
            images[held],
            None if labels is None else labels[fit],
            None if labels is None else labels[held],
            digest.hexdigest(),
            complete=len(images) == drawn.given,
            given=drawn.given,
            classes=drawn.classes,
        )

    def __len__(self) -> int:
        return len(self.fit) + len(self.held_out)

    def missing_classes(self, outputs: int | None = None) -> str | None:
        """Which classes have no calibration image, and what to do; None if chance explains that.

        Args:
            outputs: how many classes the network tells apart; None if it gives something else than a score a class.
        """
        if self.fit_labels is None or self.held_out_labels is None:
            return None
        labels = torch.cat([self.fit_labels, self.held_out_labels])
        missing = missing_classes(labels, self.classes | set(range(outputs or 0)))
        if not missing:
            return None
        names = ", ".join(map(str, missing[:_LISTED])) + (", ..." if len(missing) > _LISTED else "")
        known = len(missing) + len(classes_of(labels))
        if self.classes.issuperset(missing):
            remedy = f"raise num_calibration_images above {len(self)}"
        else:
            remedy = "give training images of every class"
        return (
            f"calibration data: {len(missing)} of {known} classes have no calibration image ({names}). Remedy: {remedy}"
        )


def missing_classes(labels: Tensor, known: Iterable[int]) -> list[int]:
    """The known classes that no label names, if chance would hardly leave out so many; else none.

    Of C equally frequent classes, n random images leave out C(1 − 1/C)ⁿ on average. More than three standard deviations
    above that are not put down to chance.

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
    classes, images = len(missing) + len(present), len(labels)
    one, two = (1 - 1 / classes) ** images, (1 - 2 / classes) ** images  # that a class, or two, do not occur
    mean = classes * one
    variance = mean + classes * (classes - 1) * two - mean**2
    return missing if len(missing) > mean + 3 * max(variance, 0.0) ** 0.5 else []
