"""Images of a comparison, in memory."""

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
    """Images [N, ...] and labels [N] or None, with their hash."""

    images: Tensor
    labels: Tensor | None
    digest: str

    @classmethod
    def read(cls, data: Batches | Dataset[Any], where: str) -> Images:
        """Read all batches."""
        source = read(data, where=where, workers=0)
        if isinstance(source, OnDisk):
            whole = source.in_memory()
            source = read(
                whole.images if whole.labels is None else (whole.images, whole.labels), where=where, workers=0
            )
        assert not isinstance(source, OnDisk)
        return cls(source.images, source.labels, source.digest())

    def some(self, number: int, seed: int) -> Batches:
        """Return at most ``number`` images, drawn by the seed."""
        order = torch.randperm(len(self.images), generator=generator(seed))[:number]
        return self.images[order] if self.labels is None else (self.images[order], self.labels[order])

    @cached_property
    def hashes(self) -> list[bytes]:
        """Hash of each image."""
        pixels = self.images.detach().cpu().contiguous().flatten(1).view(torch.uint8)  # NumPy knows no bfloat16
        return [hashlib.sha256(image.numpy()).digest() for image in pixels]

    @cached_property
    def each(self) -> frozenset[bytes]:
        """Set of the hashes."""
        return frozenset(self.hashes)

    @property
    def batches(self) -> Batches:
        """Images, with labels if any, as an argument for the library's functions."""
        return self.images if self.labels is None else (self.images, self.labels)
