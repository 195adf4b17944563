"""A data set of images that are decoded and preprocessed on access."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rheobase.core.errors import DataError
from rheobase.data.readers.preprocessing import Preprocessing
from rheobase.data.readers.reading import reading


class Sample(NamedTuple):
    """An image and its class; ``content`` is a file, encoded bytes, or pixels [C, H, W]."""

    name: str
    label: int
    content: Path | bytes | np.ndarray


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """A data set of images that are decoded and preprocessed on access.

    Args:
        samples: at least one image with its class index.
        classes: names of the classes, by class index.
        preprocessing: resize, crop and normalisation.

    Raises:
        DataError: on construction, if the first image cannot be read or does not fit the preprocessing; on access, if
            the image cannot be read or differs in shape from the first.

    Example:
        >>> pixels = np.full((1, 2, 2), 255, np.uint8)
        >>> image, label = ImageDataset([Sample("white", 0, pixels)], ["white"], Preprocessing())[0]
        >>> image.max().item(), label
        (1.0, 0)
    """

    def __init__(self, samples: Sequence[Sample], classes: Sequence[str], preprocessing: Preprocessing) -> None:
        if not samples:
            raise DataError("holds no sample", where="data set", remedy="give at least one image")
        self.samples, self.classes, self.preprocessing = samples, list(classes), preprocessing
        self.shape: tuple[int, ...] = _pixels(samples[0], preprocessing).shape
        self._mean = self._by_channel("mean")
        self._std = self._by_channel("std")

    def _by_channel(self, name: str) -> np.ndarray | None:
        values = getattr(self.preprocessing, name)
        if values is None:
            return None
        if len(values) != self.shape[0]:
            raise DataError(
                f"has {len(values)} values, but the images have {self.shape[0]} channels",
                where=name,
                remedy="give one value for each channel",
            )
        return np.array(values, dtype=np.float32).reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        pixels = _pixels(sample, self.preprocessing)
        if pixels.shape != self.shape:
            raise DataError(
                f"becomes {_extent(pixels.shape)}, but {self.samples[0].name} becomes {_extent(self.shape)}",
                where=sample.name,
                remedy="give both size and crop, so that all images get the same size",
            )
        # NumPy, because threads of torch for such a small array cost ten times more on a busy machine.
        image = pixels.astype(np.float32, order="C")
        image /= self.preprocessing.scale
        if self._mean is not None:
            image -= self._mean
        if self._std is not None:
            image /= self._std
        return torch.from_numpy(image), sample.label


def _pixels(sample: Sample, preprocessing: Preprocessing) -> np.ndarray:
    """Decode, resize and crop one image to [C, H, W], not yet scaled."""
    if isinstance(sample.content, np.ndarray):
        if preprocessing.size is None and preprocessing.crop is None:
            return sample.content
        planes = [Image.fromarray(plane) for plane in sample.content]
        return np.stack([np.asarray(preprocessing.fit(plane, sample.name)) for plane in planes])
    with reading(sample.name):
        content = sample.content.read_bytes() if isinstance(sample.content, Path) else sample.content
        with Image.open(io.BytesIO(content)) as encoded:
            if encoded.mode.startswith(("I", "F")):
                raise DataError(
                    f"has more than 8 bits per channel (mode {encoded.mode})",
                    where=sample.name,
                    remedy="convert the image to 8 bits, or store the pixels as an .npz",
                )
            image = encoded.convert("L" if preprocessing.grayscale else "RGB")
    pixels = np.asarray(preprocessing.fit(image, sample.name))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _extent(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"
