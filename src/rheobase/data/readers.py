"""Read image classification data: folders, tar archives, .npz, IDX files, or a user's own function.

Whatever the source, a batch is float32 images [B, C, H, W] and int64 labels [B].
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import os
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from rheobase.core import user_code as _imports
from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.core.progress import track
from rheobase.core.seeds import generator
from rheobase.data.batches import Batches

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
_TAR = re.compile(r".*\.(tar|tar\.gz|tar\.xz|tar\.bz2)", re.IGNORECASE)
_IDX = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_IDX_FOLDERS = {"train": "train", "t10k": "test"}
_LAYOUT = f"lay images out as <class>/<name> with one of the endings {' '.join(_IMAGES)}"
_DEPTH = 5
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to the pixels: (pixel / scale - mean) / std, after a resize and a centre crop.

    Args:
        size: length in pixels that the short side is resized to (bilinear, the long side in proportion).
        crop: side in pixels of the centred square that is kept, after the resize.
        mean: one value for each channel, in units of pixel / scale.
        std: one value for each channel, in units of pixel / scale.
        scale: the pixel value that becomes 1.
        grayscale: decode image files to one channel; without it they all become RGB.

    Raises:
        DataError: a value that no image can be processed with.

    Example:
        >>> Preprocessing(size=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).crop
        224
    """

    size: int | None = None
    crop: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scale: float = 255.0
    grayscale: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "crop"):
            require_positive(name, getattr(self, name))
        if self.size and self.crop and self.crop > self.size:
            raise DataError(
                f"is {self.crop}, larger than the short side of {self.size} that it is cut from",
                where="crop",
                remedy="choose crop no larger than size",
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(float(value) for value in values))
        if not all(math.isfinite(value) for value in self.mean or ()):
            raise DataError(f"is {self.mean}, not finite", where="mean", remedy="give finite numbers")
        if not all(math.isfinite(value) and value > 0 for value in self.std or ()):
            raise DataError(f"is {self.std}, not all above 0", where="std", remedy="give positive numbers")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DataError(f"is {self.scale}, not above 0", where="scale", remedy="give a positive number")


class Sample(NamedTuple):
    """One image and its class: `content` is a file, encoded bytes, or pixels [C, H, W]."""

    name: str
    label: int
    content: Path | bytes | np.ndarray


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images that are decoded and preprocessed when they are asked for.

    Args:
        samples: at least one image with its class index.
        classes: the class names, by class index.
        preprocessing: what to do to the pixels.

    Raises:
        DataError: here, where the first image cannot be read or does not fit the preprocessing; on access,
            where that image cannot be read or differs in shape from the first.

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
                remedy="give both size and crop, so that all images become equally large",
            )
        # NumPy, because torch's threads for so small an array cost ten times more on a busy machine.
        image = pixels.astype(np.float32, order="C")
        image /= self.preprocessing.scale
        if self._mean is not None:
            image -= self._mean
        if self._std is not None:
            image /= self._std
        return torch.from_numpy(image), sample.label


class InMemory(TensorDataset):
    """Images and labels that a user's function returned as tensors, in the order in which they are read."""


def read_all(loader: DataLoader[Any], *, progress: bool = False) -> Batches:
    """All samples of a loader that :func:`load` made, held in memory once, to be gone through many times.

    Files are decoded into one tensor, so that a data set needs its own size and no more. Tensors stay where they are. A
    loader of the user's own is handed on: what it yields may be another thing every time.

    Raises:
        DataError: where an image is damaged or of another size.

    Example:
        >>> images, labels = read_all(load("rheobase.zoo.digits:digits_train"))
        >>> images.shape
        torch.Size([1097, 1, 8, 8])
    """
    dataset = loader.dataset
    if isinstance(dataset, InMemory):
        images, labels = dataset.tensors
        return images, labels
    if not isinstance(dataset, ImageDataset):
        return loader
    images = torch.empty(len(dataset), *dataset.shape)
    labels = torch.empty(len(dataset), dtype=torch.int64)
    start = 0
    for part, classes in track(loader, "reading", show=progress):
        end = start + len(part)
        images[start:end], labels[start:end] = part, classes
        start = end
    return images, labels


def load(
    spec: str | os.PathLike[str],
    *,
    folder: str | None = None,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 100,
    limit: int | None = None,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Open the image data that `spec` names.

    | spec | what is read |
    | --- | --- |
    | a directory | images `<class>/<name>`, or the IDX files of MNIST and Fashion-MNIST |
    | `.tar`, `.tar.gz`, `.tar.xz`, `.tar.bz2` | the same layout of images; they stay compressed in memory |
    | `.npz` | arrays `images` and `labels`, `x` and `y`, or with a folder `x_<folder>` and `y_<folder>` |
    | `module:function` | what the function returns: a DataLoader, batches or tensors of (images, labels) |

    A class index is the position of the class folder's name in sorted order; `loader.dataset.classes` has the
    names. Image files become RGB unless `preprocessing.grayscale` is set. Array images are [N, H, W],
    [N, C, H, W], or [N, H, W, C] with C of 1 or 3. The order is the same in every epoch: without a seed it is
    that of the file, for images class by class, so that a `limit` then sees only the first few classes.

    Args:
        spec: the path or function; a path that exists wins.
        folder: the part to read: a sub-folder of a directory or tar, such as "test"; for IDX files "train" or
            "test".
        preprocessing: resize, crop and normalisation; without it, pixels are divided by 255. The data of a
            `module:function` are taken as they are.
        batch_size: images in a batch. A DataLoader or batches that a function returns keep their own.
        limit: read at most that many samples, the first ones in the order above.
        seed: shuffle the samples once with this seed, before the limit is applied.

    Returns:
        A loader of (float32 images [B, C, H, W], int64 labels [B]).

    Raises:
        DataError: nothing is there, it cannot be read, or it is not laid out as above; also while iterating,
            where a later image is damaged or of another size.

    Example:
        >>> norm = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> loader = load("cifar10.tar", folder="test", preprocessing=norm, seed=0)  # doctest: +SKIP
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        require_positive(name, value)
    preprocessing = preprocessing or Preprocessing()
    path, spec = Path(spec), str(spec)
    with _reading(spec):
        exists = path.exists()
    if not exists and _imports.names_function(spec):
        if folder is not None or preprocessing != Preprocessing():
            unused = "folder" if folder is not None else "preprocessing"
            raise DataError(
                f"has no effect on the data of {spec}",
                where=unused,
                remedy=f"leave it out, or apply it in {spec}",
            )
        return _from_function(spec, batch_size, limit, seed)
    if not exists:
        raise DataError("does not exist", where=spec, remedy="give a path that exists, or module:function")

    samples, classes = _samples(path, folder, preprocessing)
    samples = [samples[i] for i in sample_order(len(samples), limit, seed)]
    return DataLoader(ImageDataset(samples, classes, preprocessing), batch_size=batch_size)


def _samples(path: Path, folder: str | None, preprocessing: Preprocessing) -> tuple[list[Sample], list[str]]:
    """Read the samples and the class names, by the kind of file."""
    if path.is_dir():
        idx = _idx_files(path)
        if not idx:
            return _from_folder(path, folder)
        images, labels = _read_idx(path, idx, folder)
    elif _TAR.fullmatch(path.name):
        return _from_tar(path, folder)
    elif path.suffix.lower() == ".npz":
        images, labels = _read_npz(path, folder)
    else:
        raise DataError(
            "is no kind of data file that can be read",
            where=str(path),
            remedy="give a folder of images, a .tar, .tar.gz, .tar.xz, .tar.bz2 or .npz file, or module:function",
        )
    return _from_arrays(images, labels, str(path), preprocessing)


def require_positive(name: str, value: int | None) -> None:
    """Refuse an option below 1 with a DataError; None is an option that was not given."""
    if value is not None and not (isinstance(value, Integral) and value >= 1):
        raise DataError(f"is {value}, not a positive whole number", where=name, remedy="give 1 or more")


def sample_order(count: int, limit: int | None, seed: int | None) -> list[int]:
    """The positions to read of `count` samples: shuffled where there is a seed, then cut at the limit."""
    if seed is None:
        return list(range(count))[:limit]
    return torch.randperm(count, generator=generator(seed)).tolist()[:limit]


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn whatever goes wrong in reading `where` into a DataError."""
    try:
        yield
    except PermissionError as cause:
        name = str(cause.filename) if cause.filename else where
        raise DataError("may not be read", where=name, remedy="give yourself read permission") from cause
    except (
        OSError,
        EOFError,
        ValueError,
        SyntaxError,  # Pillow's, for a broken PNG
        struct.error,
        zlib.error,
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as cause:
        raise DataError(
            f"is damaged, truncated or of another kind ({str(cause) or type(cause).__name__})",
            where=where,
            remedy="fetch or write it again",
        ) from cause


# Pixels


def _pixels(sample: Sample, preprocessing: Preprocessing) -> np.ndarray:
    """Decode, resize and crop one image to [C, H, W], not yet scaled."""
    if isinstance(sample.content, np.ndarray):
        if preprocessing.size is None and preprocessing.crop is None:
            return sample.content
        planes = [Image.fromarray(plane) for plane in sample.content]
        return np.stack([np.asarray(_fit(plane, preprocessing, sample.name)) for plane in planes])
    with _reading(sample.name):
        content = sample.content.read_bytes() if isinstance(sample.content, Path) else sample.content
        with Image.open(io.BytesIO(content)) as encoded:
            if encoded.mode.startswith(("I", "F")):
                raise DataError(
                    f"has more than 8 bits a channel (mode {encoded.mode})",
                    where=sample.name,
                    remedy="convert the image to 8 bits, or store the pixels as an .npz",
                )
            image = encoded.convert("L" if preprocessing.grayscale else "RGB")
    pixels = np.asarray(_fit(image, preprocessing, sample.name))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _fit(image: Image.Image, preprocessing: Preprocessing, name: str) -> Image.Image:
    """Resize the short side and cut out the centre, with the roundings of torchvision."""
    size, crop = preprocessing.size, preprocessing.crop
    if size is not None and min(image.size) != size:
        short = min(image.size)
        width, height = (int(size * side / short) if side != short else size for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if crop is None:
        return image
    if crop > min(image.size):
        raise DataError(
            f"is {image.width}x{image.height}, smaller than the crop of {crop}",
            where=name,
            remedy="give a smaller crop, or a size to resize to first",
        )
    left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


def _extent(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"


# Image files, in a folder or a tar


@dataclass
class _Listing:
    """The images beneath one folder of a tree, gathered name by name."""

    base: tuple[str, ...]
    images: dict[tuple[str, ...], Path | bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    strays: list[str] = field(default_factory=list)
    homes: set[str] = field(default_factory=set)

    def wants(self, parts: tuple[str, ...], is_folder: bool) -> bool:
        """Note a name of the tree; true for an image `<class>/<name>` beneath the base."""
        is_image = not is_folder and parts[-1].lower().endswith(_IMAGES)
        if is_image and len(parts) > 1:
            self.homes.add("/".join(parts[:-2]))
        inner = parts[len(self.base) :]
        if parts[: len(self.base)] != self.base or not inner:
            return False
        if is_folder or len(inner) > 1:
            self.folders.add(inner[0])
        if is_image and len(inner) != 2:
            self.strays.append("/".join(parts))
        return is_image and len(inner) == 2

    def samples(self, where: str, joint: str) -> tuple[list[Sample], list[str]]:
        """Number the classes and order the images; refuse a tree whose classes would be miscounted."""
        if not self.images:
            raise self._no_images(where)
        classes = sorted(self.folders)
        empty = sorted(self.folders - {key[0] for key in self.images})
        if empty:
            raise DataError(
                f"class folder {'/'.join((*self.base, empty[0]))!r} holds no image of its own",
                where=where,
                remedy=f"take it away; {_LAYOUT}{self._choices()}",
            )
        if self.strays:
            warnings.warn(
                f"{where}: {len(self.strays)} images are not laid out as <class>/<name> and are left out, "
                f"such as {min(self.strays)}.",
                RheobaseWarning,
                stacklevel=5,
            )
        index = {name: i for i, name in enumerate(classes)}
        prefix = where + joint + "".join(f"{part}/" for part in self.base)
        return [
            Sample(prefix + "/".join(key), index[key[0]], content) for key, content in sorted(self.images.items())
        ], classes

    def _no_images(self, where: str) -> DataError:
        beneath = f" beneath the folder {'/'.join(self.base)!r}" if self.base else ""
        return DataError(f"holds no images{beneath}", where=where, remedy=f"{_LAYOUT}{self._choices()}")

    def _choices(self) -> str:
        homes = sorted(home for home in self.homes if home and home != "/".join(self.base))
        choices = [f"choose folder (--folder) {' or '.join(homes[:_LISTED])}"] if homes else []
        if "" in self.homes and self.base:
            choices.append("leave folder out")
        return "".join(f", or {choice}" for choice in choices)


def _parts(name: str) -> tuple[str, ...]:
    """Split a member's name or a folder; a leading "/" and every "." fall away."""
    return tuple(part for part in PurePosixPath(name).parts if part != "/")


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _from_folder(root: Path, folder: str | None) -> tuple[list[Sample], list[str]]:
    listing = _Listing(_parts(folder or ""))
    with _reading(str(root)):
        top = root.joinpath(*listing.base)
        if top.is_dir():
            for parts, path in _walk(top, listing.base, listing):
                listing.images[parts] = path
        if not listing.images and listing.base:
            for _ in _walk(root, (), listing):  # only to know which folders to propose
                pass
    return listing.samples(str(root), os.sep)


def _walk(top: Path, above: tuple[str, ...], listing: _Listing) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield the wanted images below `top`; the depth is bounded because links may form a circle."""
    for entry in os.scandir(top):
        parts = (*above, entry.name)
        if _is_hidden([entry.name]):
            continue
        is_folder = entry.is_dir()
        if listing.wants(parts, is_folder):
            yield parts[len(listing.base) :], Path(entry.path)
        elif is_folder and len(parts) - len(listing.base) < _DEPTH:
            yield from _walk(Path(entry.path), parts, listing)


class _StrictInfo(tarfile.TarInfo):
    """A header reader that does not take a damaged header for the end of the archive, as tarfile does."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _StrictInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as cause:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(f"{cause} instead of a further member or the end mark") from cause


class _StrictTar(tarfile.TarFile):
    tarinfo = _StrictInfo


def _from_tar(path: Path, folder: str | None) -> tuple[list[Sample], list[str]]:
    listing = _Listing(_parts(folder or ""))
    # One pass from start to end, for a compressed archive cannot be searched; a larger buffer is slower.
    with _reading(str(path)), _StrictTar.open(path, "r|*") as archive:
        for member in archive:
            parts = _parts(member.name)
            if not parts or _is_hidden(parts) or not listing.wants(parts, member.isdir()):
                continue
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                raise DataError(
                    "is a link or a device, which one pass through the archive cannot follow",
                    where=f"{path}:{member.name}",
                    remedy="pack the archive again with tar --dereference --hard-dereference",
                )
            listing.images[parts[len(listing.base) :]] = stream.read()
    return listing.samples(str(path), ":")


# Arrays


def _from_arrays(
    images: np.ndarray, labels: np.ndarray, where: str, preprocessing: Preprocessing
) -> tuple[list[Sample], list[str]]:
    if preprocessing.grayscale:
        raise DataError(
            f"has no effect on the arrays in {where}",
            where="grayscale",
            remedy="leave it out, it is for image files",
        )
    images, labels = _check_images(images, where), _check_labels(labels, where)
    if len(images) != len(labels):
        raise DataError(
            f"has {len(images)} images but {len(labels)} labels",
            where=where,
            remedy="give one label for each image",
        )
    if not len(images):
        raise DataError("holds no sample", where=where, remedy="give at least one image")
    if images.dtype != np.uint8 and preprocessing.scale == 255.0 and images.max() <= 1:
        warnings.warn(
            f"{where}: the images lie within 1 already and are divided by 255 nevertheless; set scale to 1.",
            RheobaseWarning,
            stacklevel=4,
        )
    samples = [
        Sample(f"{where} image {i}", int(label), image)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return samples, [str(i) for i in range(int(labels.max()) + 1)]


def _check_images(images: np.ndarray, where: str) -> np.ndarray:
    """Bring images to uint8 or float32 [N, C, H, W]."""
    if images.dtype.kind not in "uif" or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise DataError(
            f"has images of type {images.dtype} and shape {list(images.shape)}",
            where=where,
            remedy="give numbers of shape [N, H, W], [N, C, H, W], or [N, H, W, C] with C of 1 or 3",
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype == np.uint8:
        return images
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if len(bad):
        raise DataError(
            "has a pixel that is not finite",
            where=f"{where} image {bad[0]}",
            remedy="remove or repair the image",
        )
    return images.astype(np.float32)


def _check_labels(labels: np.ndarray, where: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or (len(labels) and labels.min() < 0):
        raise DataError(
            f"has labels of type {labels.dtype} and shape {list(labels.shape)} that are not class indices",
            where=where,
            remedy="give one integer from 0 up for each image (of one-hot labels, take argmax(1))",
        )
    return labels


def _read_npz(path: Path, folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(f"x_{folder}", f"y_{folder}")] if folder else [("images", "labels"), ("x", "y")]
    with _reading(str(path)):
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with stored:
            for images, labels in pairs:
                if images in stored and labels in stored:
                    return stored[images], stored[labels]
            names = list(stored)
    folders = sorted(name[2:] for name in names if name.startswith("x_") and f"y_{name[2:]}" in names)
    choices = [f"choose folder (--folder) {' or '.join(folders)}"] if folders else []
    if folder and names:
        choices.append("leave folder out")
    wanted = " or ".join(f"{images!r} and {labels!r}" for images, labels in pairs)
    raise DataError(
        f"has no arrays {wanted}, only {', '.join(names[:_LISTED]) or 'nothing'}",
        where=str(path),
        remedy=", or ".join(["name the arrays images and labels", *choices]),
    )


def _idx_files(root: Path) -> dict[tuple[str, str], Path]:
    """The IDX files in a directory, by folder ("train", "test") and content ("images", "labels")."""
    with _reading(str(root)):
        matches = [(_IDX.fullmatch(path.name), path) for path in sorted(root.iterdir())]
    return {(_IDX_FOLDERS[match[1]], match[2]): path for match, path in matches if match}


def _read_idx(root: Path, files: dict[tuple[str, str], Path], folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    folders = sorted({name for name, _ in files})
    if folder is None and len(folders) == 1:
        folder = folders[0]
    if folder not in folders:
        reason = "holds both train and test data" if folder is None else f"holds no IDX files of {folder!r}"
        raise DataError(reason, where=str(root), remedy=f"choose folder (--folder) {' or '.join(folders)}")
    for content in ("images", "labels"):
        if (folder, content) not in files:
            raise DataError(
                f"lacks the IDX file of the {folder} {content}",
                where=str(root),
                remedy="put it beside the other",
            )
    return _parse_idx(files[folder, "images"], 3), _parse_idx(files[folder, "labels"], 1)


def _parse_idx(path: Path, ndim: int) -> np.ndarray:
    """Parse unsigned bytes in the IDX format: two zeros, type, rank, big-endian sizes, data."""
    with _reading(str(path)), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        content = stream.read()
        if content[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"its first bytes are not those of {ndim}-dimensional unsigned bytes")
        shape = struct.unpack_from(f">{ndim}I", content, 4)
        start = 4 + 4 * ndim
        if len(content) - start != math.prod(shape):
            raise ValueError(f"it has {len(content) - start} bytes of data where {math.prod(shape)} are announced")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# A user's own function


class _Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of (images, labels) from any iterable, checked as they pass."""

    def __init__(self, spec: str, batches: Iterable[Any]) -> None:
        self._spec = spec
        # An iterator would be spent after one epoch.
        self._batches = list(batches) if isinstance(batches, Iterator) else batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i, batch in enumerate(self._batches):
            yield _check_pair(batch, f"{self._spec} batch {i}")


def _from_function(spec: str, batch_size: int, limit: int | None, seed: int | None) -> DataLoader[Any]:
    source = _imports.call(spec, DataError)
    is_pair = isinstance(source, tuple | list) and len(source) == 2 and all(map(torch.is_tensor, source))
    if is_pair:
        images, labels = _check_pair(source, spec)
        if limit is not None or seed is not None:  # otherwise nothing is copied
            order = torch.tensor(sample_order(len(images), limit, seed), dtype=torch.long)
            images, labels = images[order], labels[order]
        return DataLoader(InMemory(images, labels), batch_size=batch_size)
    if limit is not None or seed is not None:
        raise DataError(
            f"has no effect on the batches of {spec}",
            where="limit" if limit is not None else "seed",
            remedy=f"leave it out, or select the samples in {spec}",
        )
    if isinstance(source, DataLoader):
        if not isinstance(source.dataset, IterableDataset) and len(source) == 0:
            raise DataError("returned no sample", where=spec, remedy="return at least one batch")
        return source
    if not isinstance(source, Iterable):
        raise DataError(
            f"returned {type(source).__name__}, which is no data",
            where=spec,
            remedy="return a DataLoader, batches of (images, labels), or (images, labels) tensors",
        )
    batches = _Batches(spec, source)
    if next(iter(batches), None) is None:
        raise DataError("returned no sample", where=spec, remedy="return at least one batch")
    return DataLoader(batches, batch_size=None)


def _check_pair(pair: Any, where: str) -> tuple[Tensor, Tensor]:
    """Require float images [B, C, H, W] and as many integer labels [B]."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(torch.is_tensor, pair))):
        raise DataError(
            f"is {type(pair).__name__}, not a pair of tensors",
            where=where,
            remedy="return (images, labels) tensors",
        )
    images, labels = pair
    if not images.is_floating_point() or labels.is_floating_point() or images.ndim < 2 or labels.ndim != 1:
        raise DataError(
            f"has images {images.dtype} {list(images.shape)} and labels {labels.dtype} {list(labels.shape)}",
            where=where,
            remedy="return float images [B, C, H, W] and integer labels [B]",
        )
    if len(images) != len(labels):
        raise DataError(
            f"has {len(images)} images but {len(labels)} labels",
            where=where,
            remedy="give one label for each image",
        )
    if not len(images):
        raise DataError("holds no sample", where=where, remedy="give at least one image")
    return images.float(), labels.long()
