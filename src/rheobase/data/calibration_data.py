"""The images a conversion is calibrated on, and those held out to check it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.errors import DataError
from rheobase.core.seeds import generator
from rheobase.data.batches import Batches, Digest, batches

HELD_OUT = 0.2
MOST_HELD_OUT = 2000
"""More would only make every pass's measurement slower."""


@dataclass(frozen=True)
class CalibrationData:
    """Pooled calibration images, split once into a part to fit on and a part to check on.

    Attributes:
        fit: images that passes may fit parameters to, [N, ...].
        held_out: images they never see; empty when there are fewer than five images in all.
        fit_labels: class of each fitted image, or None.
        held_out_labels: likewise.
        digest: SHA-256 of the pooled images and labels, before the split.
        complete: whether the whole loader was read (False: the limit cut it).
    """

    fit: Tensor
    held_out: Tensor
    fit_labels: Tensor | None
    held_out_labels: Tensor | None
    digest: str
    complete: bool

    @classmethod
    def pool(cls, data: Batches, *, limit: int, seed: int) -> CalibrationData:
        """Read up to ``limit`` images and split them by a seeded shuffle.

        The images are pooled first, so that nothing later depends on how the loader cut them into batches.

        Raises:
            DataError: if there is no image, or one holds NaN, or shapes differ.
        """
        images: list[Tensor] = []
        labels: list[Tensor | None] = []
        read, complete = 0, True
        for part, part_labels in batches(data, where="calibration data"):
            if read >= limit:
                complete = False
                break
            room = limit - read
            complete = len(part) <= room
            part, part_labels = part[:room], None if part_labels is None else part_labels[:room]
            if images and part.shape[1:] != images[0].shape[1:]:
                raise DataError(
                    f"mixes shapes {list(images[0].shape[1:])} and {list(part.shape[1:])}",
                    where="calibration data",
                    remedy="resize or crop all images alike",
                )
            images.append(part)
            labels.append(part_labels)
            read += len(part)
        pooled = torch.cat(images)
        images.clear()
        if not pooled.is_floating_point():
            raise DataError(
                f"holds {pooled.dtype} values",
                where="calibration data",
                remedy="convert to float and normalise",
            )
        if not bool(torch.isfinite(pooled).all()):
            first = int((~torch.isfinite(pooled)).flatten(1).any(1).nonzero()[0])
            raise DataError(
                f"image {first} holds NaN or infinite values",
                where="calibration data",
                remedy="check the reader",
            )
        pooled_labels = (
            torch.cat([part for part in labels if part is not None])
            if all(part is not None for part in labels)
            else None
        )
        digest = Digest()
        digest.update(images=pooled, labels=pooled_labels)
        order = torch.randperm(len(pooled), generator=generator(seed))
        cut = min(int(len(pooled) * HELD_OUT), MOST_HELD_OUT)
        held, fit = order[:cut], order[cut:]
        return cls(
            pooled[fit],
            pooled[held],
            None if pooled_labels is None else pooled_labels[fit],
            None if pooled_labels is None else pooled_labels[held],
            digest.hexdigest(),
            complete,
        )
