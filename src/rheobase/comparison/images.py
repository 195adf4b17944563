"""Images of a comparison, in memory."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import Dataset

from rheobase.core.seeds import generator
from rheobase.data.batches import Batches
from rheobase.data.sources import InMemory, OnDisk, read


class Images(InMemory):
    """Images [N, ...] and labels [N, ...] or None."""

    @classmethod
    def read(cls, data: Batches | Dataset[Any], where: str) -> Images:
        """Read all batches."""
        source = read(data, where=where, workers=0)
        if isinstance(source, OnDisk):
            whole = source.in_memory()
            return cls.read(cls(whole.images, whole.labels).data, where)  # which checks all images
        return cls(source.images, source.labels)

    @property
    def data(self) -> Batches:
        """Images, with labels if any, as an argument for the library's functions."""
        return self.images if self.labels is None else (self.images, self.labels)

    def some(self, number: int, seed: int) -> Batches:
        """Return at most ``number`` images, drawn by the seed."""
        order = torch.randperm(len(self.images), generator=generator(seed))[:number]
        return Images(self.images[order], None if self.labels is None else self.labels[order]).data

    @cached_property
    def hashes(self) -> list[bytes]:
        """Hash of each image."""
        pixels = self.images.detach().cpu().contiguous().flatten(1).view(torch.uint8)  # NumPy knows no bfloat16
        return [hashlib.sha256(image.numpy()).digest() for image in pixels]
