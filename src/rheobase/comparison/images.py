"""The images of a comparison, held in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rheobase.core.seeds import generator
from rheobase.data.batches import Batches
from rheobase.data.sources import OnDisk, read


@dataclass(frozen=True)
class Images:
    """Images [N, ...] and labels [N] or None, with the hash of all of them."""

    images: Tensor
    labels: Tensor | None
    digest: str

    @classmethod
    def read(cls, data: Batches | Dataset[Any], where: str) -> Images:
        """All that the batches give."""
        source = read(data, where=where, workers=0)
        if isinstance(source, OnDisk):
            whole = source.in_memory()
            source = read(
                whole.images if whole.labels is None else (whole.images, whole.labels), where=where, workers=0
            )
        assert not isinstance(source, OnDisk)
        return cls(source.images, source.labels, source.digest())

    def some(self, number: int, seed: int) -> Batches:
        """So many, chosen by the seed."""
        order = torch.randperm(len(self.images), generator=generator(seed))[:number]
        return self.images[order] if self.labels is None else (self.images[order], self.labels[order])

    @cached_property
    def hashes(self) -> list[bytes]:
        """Of every image by itself."""
        pixels = self.images.detach().cpu().contiguous().flatten(1).view(torch.uint8)  # NumPy knows no bfloat16
        return [hashlib.sha256(image.numpy()).digest() for image in pixels]

    @cached_property
    def each(self) -> frozenset[bytes]:
        """The hashes, to look one up."""
        return frozenset(self.hashes)

    @property
    def batches(self) -> Batches:
        """As every function of the library takes them."""
        return self.images if self.labels is None else (self.images, self.labels)
