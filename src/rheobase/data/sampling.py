"""Seeded random samples of tensors, data sets, loaders and other iterables of batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rheobase.core.checks import check_whole
from rheobase.core.errors import DataError
from rheobase.core.seeds import check_seed, generator
from rheobase.data.batches import Batch, Batches, alike, batches, tensors
from rheobase.data.sources import InMemory, OnDisk, Source, dataset_of, is_map_style, join

NUM_CALIBRATION_IMAGES = 1024
"""Default number of calibration images."""
_AT_ONCE = 100


@dataclass(frozen=True)
class RandomSample:
    """A random sample of images.

    Attributes:
        images: images of the sample, [n, ...].
        labels: labels of the sample, [n], or None.
        numbers: index of each image in the data, from 0.
        given: number of images in the data.
        classes: all labels that were read, including those of images outside the sample.
    """

    images: Tensor
    labels: Tensor | None
    numbers: tuple[int, ...]
    given: int
    classes: frozenset[int]

    @property
    def batch(self) -> Batches:
        """Images, with labels if any, as an argument for the library's functions."""
        return self.images if self.labels is None else (self.images, self.labels)


def sample(data: Batches | Dataset[Any], number: int, seed: int, *, where: str = "calibration data") -> RandomSample:
    """Draw ``number`` images uniformly at random; return all of them, in order, if there are no more.

    From tensors, a map-style ``Dataset``, or a ``DataLoader`` that batches such a data set in order or shuffled, only
    the drawn images are read. Any other loader or iterable is read to its end (reservoir sampling: Vitter 1985,
    Algorithm R), with only the drawn images and one batch in memory. The sample does not depend on the batch size.

    Args:
        data: images [N, ...]; (images, labels [N]); a data set of (image, label) or of images; or batches of either.
        number: size of the sample.
        seed: seed of the sample.
        where: name of the data in errors.

    Raises:
        DataError: if the data is empty, shapes differ, or only some images have labels.
        RecipeError: if ``number`` or ``seed`` is invalid.

    Example:
        >>> found = sample(torch.rand(10, 3, 8, 8), 4, seed=0)
        >>> found.images.shape, found.given
        (torch.Size([4, 3, 8, 8]), 10)
    """
    number, seed = check_whole(number, "num_calibration_images"), check_seed(seed)
    dataset = data if is_map_style(data) else dataset_of(data)
    whole = tensors(data, where) if dataset is None else None
    if dataset is not None:
        source: Source = OnDisk(dataset, data.num_workers if isinstance(data, DataLoader) else 0, where)
    elif whole is not None:
        source = InMemory(*whole)
    else:
        return _from_stream(cast(Batches, data), number, seed, where)
    takes_all = len(source) <= number
    order = torch.arange(len(source)) if takes_all else torch.tensor(sample_order(len(source), number, seed))
    if whole is not None and takes_all:  # not copied
        images, labels = whole
    else:
        images, labels = join(source.batches(order.split(_AT_ONCE)), where)
    classes = classes_of(labels if whole is None else whole[1])
    return RandomSample(images, labels, tuple(order.tolist()), len(source), classes)


def sample_order(count: int, limit: int | None, seed: int | None) -> list[int]:
    """Indices of the samples to read out of ``count``: shuffled if a seed is given, then cut at the limit."""
    if seed is None:
        return list(range(count))[:limit]
    return torch.randperm(count, generator=generator(seed)).tolist()[:limit]


def _from_stream(data: Batches, number: int, seed: int, where: str) -> RandomSample:
    """Reservoir sampling: image n replaces a kept one with probability ``number`` / n."""
    draws = np.random.default_rng(seed)  # its random numbers do not depend on how many are drawn at once
    kept: dict[int, tuple[int, Batch]] = {}
    classes: set[int] = set()
    given = 0
    for images, labels in alike(batches(data, where=where), where):
        classes |= classes_of(labels)
        for i, draw in enumerate(draws.random(len(images)).tolist(), given):
            place = i if i < number else int(draw * (i + 1))
            if place < number:
                part = slice(i - given, i - given + 1)
                # copies, because a view would keep the whole batch in memory
                kept[place] = i, (images[part].clone(), None if labels is None else labels[part].clone())
        given += len(images)
    if not kept:
        raise DataError("is empty", where=where, remedy="give at least one image")
    images, labels = join((one for _, one in kept.values()), where)
    return RandomSample(images, labels, tuple(number for number, _ in kept.values()), given, frozenset(classes))


def classes_of(labels: Tensor | None) -> frozenset[int]:
    """The set of classes in labels [N]; empty without labels, or if they are not whole numbers."""
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        return frozenset()
    return frozenset(labels.unique().tolist())
