"""Range and deviation of images, to notice images on another scale than those of the calibration."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from rheobase.core.errors import RheobaseWarning

ANOTHER_SCALE = 3.0
"""Ratio of two standard deviations from which on the scales differ: pixels of natural images differ by less than two
between data sets of the same scale, normalised and plain pixels by about four, 0..255 and 0..1 by 255."""
MESSAGE = "are on another scale"
"""The words by which a caller may ignore the warning."""


class ValueRange:
    """Lowest and highest value, mean and standard deviation over all values of images, batch by batch.

    Example:
        >>> ValueRange().add(torch.tensor([[0.0, 1.0]])).add(torch.tensor([[2.0, 1.0]])).to_dict()
        {'lowest': 0.0, 'highest': 2.0, 'mean': 1.0, 'deviation': 0.7071067811865476}
    """

    def __init__(self) -> None:
        self.count, self.lowest, self.highest, self._sum, self._squares = 0, math.inf, -math.inf, 0.0, 0.0

    def add(self, images: Tensor) -> ValueRange:
        """Add images of any shape, and return the range."""
        values = images.detach().float()
        lowest, highest = values.aminmax()
        deviation, mean = map(float, torch.std_mean(values, correction=0))
        self.lowest, self.highest = min(self.lowest, float(lowest)), max(self.highest, float(highest))
        self.count += values.numel()
        self._sum += mean * values.numel()
        self._squares += (deviation**2 + mean**2) * values.numel()
        return self

    def to_dict(self) -> dict[str, float]:
        """The four values by name."""
        mean = self._sum / self.count
        deviation = max(self._squares / self.count - mean**2, 0.0) ** 0.5
        return {"lowest": self.lowest, "highest": self.highest, "mean": mean, "deviation": deviation}


def warn_of_another_scale(
    images: ValueRange, known: Mapping[str, float] | None, where: str, *, stacklevel: int = 3
) -> None:
    """Warn if the deviations of images and calibration images differ by more than a factor of three.

    Args:
        images: the range of the images.
        known: that of the calibration images, :meth:`ValueRange.to_dict`; None: nothing is compared.
        where: name of the images in the warning.
        stacklevel: as for :func:`warnings.warn`.
    """
    if not known or not images.count:
        return
    found = images.to_dict()
    if not (found["deviation"] > 0 and known["deviation"] > 0):  # all values are the same
        return
    ratio = found["deviation"] / known["deviation"]
    if 1 / ANOTHER_SCALE <= ratio <= ANOTHER_SCALE:
        return
    ranges = [
        f"{one['lowest']:.4g} to {one['highest']:.4g} (deviation {one['deviation']:.3g})" for one in (found, known)
    ]
    warnings.warn(
        f"{where}: the values, {ranges[0]}, {MESSAGE} than those of the calibration images, {ranges[1]}. "
        "Remedy: scale and normalise both in the same way (--scale, --mean and --std on the command line).",
        RheobaseWarning,
        stacklevel=stacklevel,
    )
