"""Images that are read by index: tensors in memory, or a data set that is read when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import default_collate as collate

from rheobase.core.errors import DataError
from rheobase.core.progress import track
from rheobase.data.batches import (
    Batch,
    Batches,
    Digest,
    alike,
    as_batch,
    batches,
    check_images,
    each,
    reading_files,
    tensors,
)

_AT_ONCE = 100
IN_MEMORY = 2**30
"""Bytes of images up to which a data set that is read several times is kept in memory."""


@dataclass(frozen=True)
class InMemory:
    """Images [N, ...] and labels [N, ...] or None; for a loss of one's own also a dict of labels."""

    images: Tensor
    labels: Any

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> bool:
        """True if there are labels."""
        return self.labels is not None

    def batches(self, wanted: Sequence[Tensor], seed: int = 0) -> Iterator[Batch]:
        """Yield one batch for each tensor of indices; the seed has no effect."""
        for numbers in wanted:
            yield self.images[numbers], each(self.labels, itemgetter(numbers))

    def digest(self) -> str:
        """SHA-256 of all values."""
        return Digest().update(images=self.images, labels=self.labels).hexdigest()


@dataclass(frozen=True)
class OnDisk:
    """A map-style ``Dataset`` of (image, label) or of images, read by ``workers`` processes; never empty.

    ``fields``: a label may be a dict of tensors.
    """

    dataset: Dataset[Any]
    workers: int
    where: str
    fields: bool = False

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise DataError("is empty", where=self.where, remedy="give at least one image")

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    @cached_property
    def _first(self) -> Batch:
        with reading_files(self.where):
            return _collate([self.dataset[0]], self.where, self.fields)

    @cached_property
    def labelled(self) -> bool:
        """True if the first image has a label."""
        return self._first[1] is not None

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all images, if all are like the first."""
        return len(self) * self._first[0].nbytes

    def loader(self, batch_size: int) -> DataLoader[Any]:
        """A loader of all images in order."""
        collate_one = partial(_collate, where=self.where, fields=self.fields)
        return DataLoader(self.dataset, batch_size, num_workers=self.workers, collate_fn=collate_one)

    def batches(self, wanted: Sequence[Tensor], seed: int = 0) -> Iterator[Batch]:
        """Yield one batch for each tensor of indices; the seed is for random transforms in the workers."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=[part.tolist() for part in wanted],
            num_workers=self.workers,
            collate_fn=partial(_collate, where=self.where, fields=self.fields),
            generator=torch.Generator().manual_seed(seed),  # else the loader draws from the global one
        )
        with reading_files(self.where):
            yield from loader

    def digest(self) -> str:
        """SHA-256 of the number of images and of the first image, because reading all could take an hour."""
        image, label = next(self.batches([torch.tensor([0])]))
        first = Digest().update(images=image, labels=label).hexdigest()
        return hashlib.sha256(f"{len(self)} {first}".encode()).hexdigest()

    def in_memory(self, progress: bool = False) -> InMemory:
        """Read each image once, directly into one tensor."""
        wanted = torch.arange(len(self)).split(_AT_ONCE)
        parts = track(self.batches(wanted), "reading", show=progress, total=len(wanted))
        images, labels = torch.empty(0), []
        for numbers, (part, classes) in zip(wanted, alike(parts, self.where), strict=True):
            if not len(images):
                images = torch.empty(len(self), *part.shape[1:], dtype=part.dtype)
            images[numbers] = part
            labels += [] if classes is None else [classes]
        return InMemory(images, torch.cat(labels) if labels else None)


Source = InMemory | OnDisk


@dataclass(frozen=True)
class Part:
    """A subset of the images of a source, by index."""

    source: Source
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)


def read(data: Batches | Dataset[Any], *, where: str, workers: int, fields: bool = False) -> Source:
    """Make a source: tensors and a map-style data set are not copied, any other loader is read once to its end.

    ``fields``: labels may be a dict of tensors.

    Raises:
        DataError: if there is no image, shapes differ, or an image holds NaN.
    """
    if is_map_style(data):
        source = OnDisk(data, workers, where, fields)
        _ = source.labelled  # reads one image, so that an error is raised here and not in the middle of a long run
        return source
    images, labels = tensors(data, where, fields) or join(
        batches(cast(Batches, data), where=where, fields=fields), where
    )
    check_images(images, where)
    return InMemory(images, labels)


def split(source: Source, fraction: float, seed: int) -> tuple[Part, Part]:
    """Split a source at random by the seed, into (the rest, the fraction)."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    cut = int(len(source) * fraction)
    return Part(source, order[cut:].sort().values), Part(source, order[:cut].sort().values)


def join(parts: Iterable[Batch], where: str) -> Batch:
    """Concatenate all batches."""
    images, labels = zip(*alike(parts, where), strict=True)
    joined: Any = None
    if isinstance(labels[0], Mapping):
        joined = {name: torch.cat([part[name] for part in labels]) for name in labels[0]}
    elif labels[0] is not None:
        joined = torch.cat(labels)
    # a single batch is not copied, because it may take most of the memory
    return images[0] if len(images) == 1 else torch.cat(images), joined


def is_map_style(data: object) -> TypeGuard[Dataset[Any]]:
    """True for a data set whose images are read by index: torch's, or Hugging Face's, which has column names."""
    is_dataset = isinstance(data, Dataset) or (hasattr(data, "column_names") and hasattr(data, "__getitem__"))
    return is_dataset and not isinstance(data, IterableDataset) and hasattr(data, "__len__")


def dataset_of(loader: object) -> Dataset[Any] | None:
    """The map-style data set of a loader that batches it in order or shuffled; None for any other loader.

    Reading images of such a data set by index is equivalent to reading them from the loader.
    """
    if not isinstance(loader, DataLoader) or not is_map_style(loader.dataset):
        return None
    if loader.collate_fn is not collate and getattr(loader.collate_fn, "func", None) is not _collate:
        return None
    if type(loader.batch_sampler) is not BatchSampler:
        return None
    sampler = loader.batch_sampler.sampler
    in_order = type(sampler) is SequentialSampler and not loader.drop_last
    shuffled = type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source)
    return loader.dataset if in_order or shuffled else None


def _collate(items: list[Any], where: str, fields: bool = False) -> Batch:
    """Collate items of a data set, each an image or (image, label, ...), into one batch."""
    try:
        batch = collate(items)
    except (TypeError, RuntimeError) as cause:
        remedy = "let the data set's transform return (image tensor, label), with all images of one shape"
        raise DataError(f"has items that cannot be batched ({cause})", where=where, remedy=remedy) from cause
    return as_batch(batch, where, fields)
