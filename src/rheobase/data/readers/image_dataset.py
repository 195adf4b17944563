"""A data set of images that are decoded and preprocessed on access."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from rheobase.core.errors import DataError, RheobaseError, RheobaseWarning
from rheobase.core.values import Value
from rheobase.data.readers.names import Stored

LISTED = 10
"""Maximum number of names in an error."""


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn every failure to read ``where`` into a DataError."""
    try:
        yield
    except (RheobaseError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except PermissionError as cause:
        name = str(cause.filename) if cause.filename else where
        raise DataError("may not be read", where=name, remedy="give yourself read permission") from cause
    except OSError as cause:
        if cause.errno is None:  # of gzip and Pillow, for a damaged file
            raise _damaged(where, cause) from cause
        name = str(cause.filename) if cause.filename else where
        raise DataError(f"cannot be read ({cause.strerror})", where=name, remedy="check the path") from cause
    except BaseException as cause:  # of Pillow a SyntaxError, of tarfile a zlib.error, of aedat a panic of Rust
        raise _damaged(where, cause) from cause


class DamagedError(DataError):
    """A file that is damaged."""


def _damaged(where: str, cause: BaseException) -> DamagedError:
    reason = f"is damaged, truncated or of another kind ({str(cause) or type(cause).__name__})"
    return DamagedError(reason, where=where, remedy="check the path, or download or write it again")


def find_remedy(layout: str, folders: Sequence[str], is_optional: bool) -> str:
    """The remedy for data that are not found: the layout, or another folder, or no folder."""
    choice = [f"choose folder (--folder) {' or '.join(folders[:LISTED])}"] if folders else []
    return ", or ".join([layout, *choice, *(["leave folder out"] if is_optional else [])])


class Preprocessing(Value):
    """Preprocessing of an image: one channel, resize, centre crop, then (pixel / scale − mean) / std.

    It applies to every reader alike, so what is stored with a network fits files and arrays. Signals [C, L] and
    tables [F] are scaled and normalised only; the values of mean and std are those of their first axis.

    Args:
        size: length of the short side in pixels after a bilinear resize that keeps the aspect ratio.
        crop: side of the centre crop in pixels, after the resize.
        mean, std: one value for each channel, in units of pixel / scale.
        scale: the pixel value that becomes 1; default: 255, for signals and tables 1 unless their values are bytes.
        grayscale: convert images to one channel (luminance, ITU-R 601); else image files become RGB.

    Raises:
        DataError: naming every unknown or invalid field.

    Example:
        >>> Preprocessing(size=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).crop
        224
    """

    place: ClassVar[str | None] = "preprocessing"
    refusal: ClassVar[type[RheobaseError]] = DataError

    size: int | None = Field(default=None, ge=1)
    crop: int | None = Field(default=None, ge=1)
    mean: tuple[FiniteFloat, ...] | None = None
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] | None = None
    scale: FiniteFloat | None = Field(default=None, gt=0)
    grayscale: bool = False

    @model_validator(mode="after")
    def _crops_no_more_than_there_is(self) -> Preprocessing:
        if self.size and self.crop and self.crop > self.size:
            raise ValueError(f"crop is {self.crop}, larger than size, {self.size}")
        return self

    def scale_of(self, values: np.ndarray) -> float:
        """The scale of an image [C, H, W], a signal [C, L] or a table's row [F]."""
        if self.scale is not None:
            return self.scale
        return 255.0 if values.ndim == 3 or values.dtype == np.uint8 else 1.0

    def fit(self, image: Image.Image, name: str) -> Image.Image:
        """Resize the short side and crop the centre, with the rounding of torchvision; refuse a smaller image."""
        if self.size is not None and min(image.size) != self.size:
            short = min(image.size)
            width, height = (int(self.size * side / short) if side != short else self.size for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if self.crop is None:
            return image
        if self.crop > min(image.size):
            reason = f"is {image.width}x{image.height}, smaller than the crop of {self.crop}"
            raise DataError(reason, where=name, remedy="give a smaller crop, or a size to resize to")
        left, top = round((image.width - self.crop) / 2), round((image.height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))


class Sample(NamedTuple):
    """An image and its class or other target, None if it has no label.

    ``content`` is a file, a file in an archive, encoded bytes, pixels [C, H, W], a signal [C, L], or a table's row [F].
    """

    name: str
    label: int | Tensor | None
    content: Path | Stored | bytes | np.ndarray


class ImageDataset(Dataset[Any]):
    """A data set of at least one image, each decoded and preprocessed on access: (image, label), or without a label
    the image alone.

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
        for name in ("mean", "std"):
            values = getattr(preprocessing, name)
            if values is not None and len(values) != self.shape[0]:
                reason = f"has {len(values)} values, but the images have {self.shape[0]} channels"
                remedy = f"give images of {len(values)} channels, or one value for each of the {self.shape[0]}"
                raise DataError(reason, where=name, remedy=remedy)
        others = [1] * (len(self.shape) - 1)
        self._mean, self._std = (
            None if values is None else np.array(values, dtype=np.float32).reshape(-1, *others)
            for values in (preprocessing.mean, preprocessing.std)
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
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
        image /= self.preprocessing.scale_of(pixels)
        if self._mean is not None:
            image -= self._mean
        if self._std is not None:
            image /= self._std
        return torch.from_numpy(image) if sample.label is None else (torch.from_numpy(image), sample.label)


def _pixels(sample: Sample, preprocessing: Preprocessing) -> np.ndarray:
    """Decode, resize and crop one image to [C, H, W], not yet scaled; signals and tables are not changed."""
    if isinstance(sample.content, np.ndarray):
        values = sample.content
        if values.ndim < 3:
            for name in ("size", "crop", "grayscale"):
                if getattr(preprocessing, name):
                    reason = f"is for images, {sample.name} has shape {list(values.shape)}"
                    raise DataError(reason, where=name, remedy="leave it out, or give images")
            return values
        if preprocessing.grayscale:
            values = _luminance(values, sample.name)
        if preprocessing.size is None and preprocessing.crop is None:
            return values
        planes = [Image.fromarray(plane) for plane in values]
        return np.stack([np.asarray(preprocessing.fit(plane, sample.name)) for plane in planes])
    with reading(sample.name):
        content = sample.content if isinstance(sample.content, bytes) else sample.content.read_bytes()
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


def undamaged(samples: Sequence[Sample], preprocessing: Preprocessing) -> list[Sample]:
    """The samples that can be decoded; a warning names the others."""
    kept, damaged = [], []
    for sample in samples:
        try:
            _pixels(sample, preprocessing)
            kept.append(sample)
        except DamagedError:
            damaged.append(sample.name)
    if damaged:
        names = ", ".join(damaged[:LISTED]) + (", ..." if damaged[LISTED:] else "")
        text = f"{len(damaged)} of {len(samples)} images are damaged and left out: {names}"
        warnings.warn(text, RheobaseWarning, stacklevel=3)
    return kept


def _luminance(pixels: np.ndarray, name: str) -> np.ndarray:
    """Convert pixels [C, H, W] to one channel, bytes with the rounding of Pillow."""
    channels = len(pixels)
    if channels == 1:
        return pixels
    if channels != 3:
        reason = f"has {channels} channels, which grayscale cannot convert to one"
        raise DataError(reason, where=name, remedy="give images of 1 or 3 channels")
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0).copy()).convert("L"))[None]
    return np.tensordot(np.array([0.299, 0.587, 0.114], pixels.dtype), pixels, 1)[None]


def _extent(shape: Sequence[int]) -> str:
    if len(shape) != 3:
        return f"shape {list(shape)}"
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"
