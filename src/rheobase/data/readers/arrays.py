"""Arrays of images and labels in NumPy's `.npz` files, and in the IDX files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import re
import warnings
from pathlib import Path

import numpy as np
import torch

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.batches import check_as_many, check_images
from rheobase.data.readers.image_dataset import LISTED, Preprocessing, Sample, find_remedy, reading

_IDX_NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")


def read_npz(path: Path, folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `images` and `labels`, or `x` and `y`; with a folder, `x_<folder>` and `y_<folder>`."""
    pairs = [(f"x_{folder}", f"y_{folder}")] if folder else [("images", "labels"), ("x", "y")]
    with reading(str(path)):
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with stored:
            for images, labels in pairs:
                if images in stored and labels in stored:
                    return stored[images], stored[labels]
            names = list(stored)
    wanted = " or ".join(f"{images!r} and {labels!r}" for images, labels in pairs)
    folders = sorted(name[2:] for name in names if name.startswith("x_") and f"y_{name[2:]}" in names)
    raise DataError(
        f"has no arrays {wanted}, only {', '.join(names[:LISTED]) or 'nothing'}",
        where=str(path),
        remedy=find_remedy("name the arrays images and labels", folders, bool(folder and names)),
    )


def idx_files(root: Path) -> dict[tuple[str, str], Path]:
    """The IDX files in a directory, by folder ("train", "test") and content ("images", "labels")."""
    with reading(str(root)):
        matches = [(_IDX_NAME.fullmatch(path.name), path) for path in sorted(root.iterdir())]
    return {(match[1].replace("t10k", "test"), match[2]): path for match, path in matches if match}


def read_idx(root: Path, files: dict[tuple[str, str], Path], folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W] and labels [N] of one folder."""
    folders = sorted({name for name, _ in files})
    if folder is None and len(folders) == 1:
        folder = folders[0]
    if folder not in folders:
        reason = "holds both train and test data" if folder is None else f"holds no IDX files of {folder!r}"
        raise DataError(reason, where=str(root), remedy=f"choose folder (--folder) {' or '.join(folders)}")
    for content in ("images", "labels"):
        if (folder, content) not in files:
            raise DataError(
                f"lacks the IDX file of the {folder} {content}", where=str(root), remedy="add it to the directory"
            )
    return _parse_idx(files[folder, "images"], 3), _parse_idx(files[folder, "labels"], 1)


def _parse_idx(path: Path, ndim: int) -> np.ndarray:
    """Unsigned bytes in the IDX format: two zeros, type, rank, big-endian sizes, data."""
    with reading(str(path)), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        content = stream.read()
        if content[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"its header is not that of {ndim}-dimensional unsigned bytes")
        shape = np.frombuffer(content, ">u4", ndim, offset=4).tolist()
        start = 4 + 4 * ndim
        if len(content) - start != math.prod(shape):
            raise ValueError(f"it has {len(content) - start} bytes of data, its header says {math.prod(shape)}")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def as_samples(
    images: np.ndarray, labels: np.ndarray, where: str, preprocessing: Preprocessing
) -> tuple[list[Sample], list[str]]:
    """Samples and class names from images [N, H, W], [N, C, H, W] or [N, H, W, C] and labels [N] or [N, 1].

    Other numbers [N, ...] are targets of another task than classification; they have no class names.
    """
    if preprocessing.grayscale:
        reason = f"has no effect on the arrays in {where}"
        raise DataError(reason, where="grayscale", remedy="leave it out; it is for image files only")
    images = _as_pixels(images, where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "biuf" or labels.ndim == 0:
        raise DataError(
            f"has labels of type {labels.dtype} and shape {list(labels.shape)} that are not numbers",
            where=where,
            remedy="give one class index from 0 for each image, or the targets of another task",
        )
    check_as_many(images, labels, where)
    if not len(images):
        raise DataError("holds no sample", where=where, remedy="give at least one image")
    if images.dtype != np.uint8 and preprocessing.scale == 255.0 and images.max() <= 1:
        warnings.warn(
            f"{where}: the images are at most 1 and are divided by 255. Remedy: set scale to 1.",
            RheobaseWarning,
            stacklevel=4,
        )
    if labels.dtype.kind in "iu" and labels.ndim == 1:
        names, values = [str(i) for i in range(int(labels.max()) + 1)], labels.tolist()
    else:
        names, values = [], list(torch.from_numpy(labels))
    pairs = zip(images, values, strict=True)
    return [Sample(f"{where} image {i}", label, image) for i, (image, label) in enumerate(pairs)], names


def _as_pixels(images: np.ndarray, where: str) -> np.ndarray:
    """Convert images to uint8 or float32 [N, C, H, W]."""
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
    images = images.astype(np.float32)
    check_images(torch.from_numpy(images), where)
    return images
