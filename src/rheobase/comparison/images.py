"""The images of a comparison: in memory if they are few, else read again for every use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rheobase.data.batches import Batch, Batches, Digest, batches, check_images, tensors
from rheobase.data.sampling import sample
from rheobase.data.sources import IN_MEMORY, OnDisk, dataset_of, is_map_style, join
from rheobase.data.value_range import ValueRange


class Images:
    """Images, with labels if any, and what one pass over them shows.

    Args:
        data: tensors, or a loader that gives the same images in every pass.
        where: name of the images in errors.

    Attributes:
        data: as an argument for the library's functions.
        count: number of images.
        hashes: a hash of each image; of a loader of calibration images, of those that are drawn.
        values: range of the same images.
        digest: SHA-256 of all images and labels; of a loader of calibration images, of their number and the first one.
        is_whole: True if all images were looked at.
    """

    def __init__(self, data: Batches, where: str = "images") -> None:
        self.data: Any = data
        self.where = where
        self.count, self.digest, self.is_whole = 0, "", False
        self.hashes: list[bytes] = []
        self.values = ValueRange()

    @classmethod
    def read(cls, data: Batches | Dataset[Any], where: str, *, all_are_used: bool = True) -> Images:
        """Read images into memory if all are used and they fit there; else keep a loader.

        Raises:
            DataError: if there is no image, or an image in memory is not finite.
        """
        whole = tensors(data, where)
        dataset = None if whole else data if is_map_style(data) else dataset_of(data)
        if dataset is not None:
            workers, size = (data.num_workers, data.batch_size) if isinstance(data, DataLoader) else (0, None)
            source = OnDisk(dataset, workers, where)
            _ = source.labelled  # reads one image, so that an error is raised here
            if not all_are_used or source.nbytes > IN_MEMORY:
                return cls(source.loader(size or 100), where)
            found = source.in_memory()
            whole = found.images, found.labels
        elif whole is None:
            whole = _in_memory(cast(Batches, data), where)
        if whole is None:
            return cls(cast(Batches, data), where)
        check_images(whole[0], where)
        return cls(whole[0] if whole[1] is None else whole, where)

    @property
    def in_memory(self) -> Batch | None:
        """All images and labels; None for a loader."""
        return tensors(self.data, self.where)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: images in memory as NumPy arrays, which joblib shares by memory maps."""
        state = {**self.__dict__, "hashes": []}
        state.pop("first", None)
        whole = self.in_memory
        if whole is not None and whole[0].dtype != torch.bfloat16:
            if not hasattr(self, "_arrays"):  # the same objects for all jobs
                self._arrays = tuple(None if part is None else part.numpy(force=True) for part in whole)
            state |= {"data": None, "_arrays": self._arrays}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.data is None:
            images, labels = (None if part is None else torch.from_numpy(part) for part in self._arrays)
            self.data = images if labels is None else (images, labels)

    @property
    def nbytes(self) -> int:
        """Bytes of the images in memory."""
        return 0 if self.in_memory is None else self.in_memory[0].nbytes

    def check_reachable(self) -> None:
        """Read an image, which fails in a process that cannot reach the data."""
        dataset = dataset_of(self.data)
        if dataset is not None:
            _ = dataset[0]
        elif self.in_memory is None:
            _ = next(batches(self.data, where=self.where))

    @cached_property
    def first(self) -> Batch:
        """The first batch of a loader; all images in memory."""
        return self.in_memory or next(batches(self.data, where=self.where))

    @property
    def labelled(self) -> bool:
        """True if there are labels."""
        return self.first[1] is not None

    def look(self, check: Callable[[Tensor], None], drawn: tuple[int, Sequence[int]] | None = None) -> None:
        """Pass over all images once.

        Args:
            check: called with the labels of each batch.
            drawn: the number of images that are drawn from a loader, and the seeds; no others are looked at.
        """
        if drawn is None or self.in_memory is not None:
            digest = Digest()
            for images, labels in batches(self.data, where=self.where):
                self._add(images, labels, check, range(self.count, self.count + len(images)))
                digest.update(images=images, labels=labels)
                self.count += len(images)
            self.digest, self.is_whole = digest.hexdigest(), True
            return
        number, seeds = drawn
        for seed in seeds:
            found = sample(self.data, number, seed, where=self.where)
            self._add(found.images, found.labels, check, found.numbers)
            self.count = found.given
        images, labels = self.first
        first = Digest().update(images=images[:1], labels=None if labels is None else labels[:1])
        self.digest = hashlib.sha256(f"{self.count} {first.hexdigest()}".encode()).hexdigest()

    def _add(
        self, images: Tensor, labels: Tensor | None, check: Callable[[Tensor], None], numbers: Sequence[int]
    ) -> None:
        check_images(images, self.where, numbers)
        if labels is not None:
            check(labels)
        self.values.add(images)
        pixels = images.detach().cpu().contiguous().flatten(1).view(torch.uint8)  # NumPy knows no bfloat16
        self.hashes += [hashlib.sha256(image.numpy()).digest() for image in pixels]

    def some(self, number: int, seed: int) -> Batches:
        """At most ``number`` images, drawn by the seed."""
        return sample(self.data, number, seed, where=self.where).batch


def _in_memory(data: Batches, where: str) -> Batch | None:
    """All batches joined; None if they are too large, and can be read again."""
    kept: list[Batch] = []
    size = 0
    again = isinstance(data, Iterable) and not isinstance(data, Iterator)
    for batch in batches(data, where=where):
        kept.append(batch)
        size += batch[0].nbytes
        if size > IN_MEMORY and again:
            return None
    return join(kept, where)
