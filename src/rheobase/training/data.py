"""Images to train on: tensors in memory, or a data set that is read when needed, by the numbers of its images."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from rheobase.core.errors import DataError
from rheobase.data.batches import Batches, Digest, batches, check_labels

Batch = tuple[Tensor, Tensor | None]
_CHECKED_AT_ONCE = 1000


@dataclass(frozen=True)
class InMemory:
    """Images [N, ...] and labels [N] or None."""

    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None

    def batches(self, wanted: Sequence[Tensor], seed: int = 0) -> Iterator[Batch]:
        """One batch for each tensor of numbers; nothing here is random."""
        for numbers in wanted:
            yield self.images[numbers], None if self.labels is None else self.labels[numbers]

    def digest(self) -> str:
        """SHA-256 of all values."""
        digest = Digest()
        digest.update(images=self.images, labels=self.labels)
        return digest.hexdigest()


class OnDisk:
    """A map-style ``Dataset`` of (image, label) or of images, read by ``workers`` processes."""

    def __init__(self, dataset: Dataset[Any], workers: int, where: str) -> None:
        self.dataset, self.workers = dataset, workers
        self.size = len(cast(Sized, dataset))
        if self.size == 0:
            raise DataError("is empty", where=where, remedy="give at least one image")
        first = dataset[0]
        pair = isinstance(first, tuple | list)
        if not isinstance(first[0] if pair else first, Tensor):
            raise DataError(
                f"holds {type(first[0] if pair else first).__name__} where an image should be",
                where=where,
                remedy="let the data set return (image tensor, label)",
            )
        self.labelled = pair and len(first) > 1

    def __len__(self) -> int:
        return self.size

    def batches(self, wanted: Sequence[Tensor], seed: int = 0) -> Iterator[Batch]:
        """One batch for each tensor of numbers; the seed is for transforms in the workers."""
        numbers = [part.tolist() for part in wanted]
        generator = torch.Generator().manual_seed(seed)  # without, the loader would draw from the global one
        loader = DataLoader(self.dataset, batch_sampler=numbers, num_workers=self.workers, generator=generator)
        for batch in loader:
            if isinstance(batch, Tensor):
                yield batch, None
            else:
                yield batch[0], torch.as_tensor(batch[1]) if self.labelled else None

    def digest(self) -> str:
        """SHA-256 of the number of images and of the first: to read all of them could take an hour."""
        image, label = next(self.batches([torch.tensor([0])]))
        digest = Digest()
        digest.update(images=image, labels=label)
        return hashlib.sha256(f"{self.size} {digest.hexdigest()}".encode()).hexdigest()


@dataclass(frozen=True)
class Part:
    """Some of the images of a source, by their numbers."""

    source: InMemory | OnDisk
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)


def read(data: Batches | Dataset[Any], *, where: str, workers: int) -> InMemory | OnDisk:
    """Tensors are taken as they are, a map-style data set is left where it is, any loader is read to its end, once.

    Raises:
        DataError: if there is no image, shapes differ, an image holds NaN, or labels are not one whole number each.
    """
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        return OnDisk(data, workers, where)
    parts = list(batches(cast(Batches, data), where=where, batch_size=sys.maxsize))
    shapes = {tuple(part.shape[1:]) for part, _ in parts}
    if len(shapes) > 1:
        mixed = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise DataError(f"mixes shapes {mixed}", where=where, remedy="resize or crop all images alike")
    known = [part for _, part in parts if part is not None]
    if 0 < len(known) < len(parts):
        raise DataError("has labels for some batches only", where=where, remedy="give each image one label")
    images = _joined([part for part, _ in parts])
    labels = _joined(known) if known else None
    _check_images(images, where)
    if labels is not None:
        check_labels(labels, where)
    return InMemory(images, labels)


def split(source: InMemory | OnDisk, fraction: float, seed: int) -> tuple[Part, Part]:
    """A seeded shuffle cut in two: (the rest, the fraction)."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    cut = int(len(source) * fraction)
    return Part(source, order[cut:].sort().values), Part(source, order[:cut].sort().values)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)  # one is not copied: it may be all the memory there is


def _check_images(images: Tensor, where: str) -> None:
    if not images.is_floating_point():
        raise DataError(f"holds {images.dtype} values", where=where, remedy="convert to float and normalise")
    for start, part in enumerate(images.split(_CHECKED_AT_ONCE)):
        if not bool(torch.isfinite(part).all()):
            first = int((~torch.isfinite(part)).flatten(1).any(1).nonzero()[0])
            raise DataError(
                f"image {start * _CHECKED_AT_ONCE + first} holds NaN or infinite values",
                where=where,
                remedy="check the reader",
            )
