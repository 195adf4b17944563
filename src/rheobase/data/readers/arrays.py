"""Arrays of images, signals or tables in NumPy's files, and in the IDX files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.batches import LABEL_FIELDS, check_as_many, check_images
from rheobase.data.readers.image_dataset import LISTED, Preprocessing, Sample, find_remedy, reading

_VALUES = ("images", "image", "x", "signals", "data")
"""Names of arrays in a `.npz` file, in any case."""
MAX_CLASSES = 1_000_000
"""Larger labels are taken for a mistake, because every class has a name."""
MAPPED_FROM = 2**24
"""Bytes from which an array is mapped: a small one is read at once, so that its file may be replaced meanwhile."""
_AT_ONCE = 1000
_IDX_NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")


class Arrays(NamedTuple):
    """Values [N, ...], labels [N] or None, and whether the values are signals by their name."""

    values: np.ndarray
    labels: np.ndarray | None
    are_signals: bool = False


def read_npz(path: Path, folder: str | None) -> Arrays:
    """The arrays `images`, `x` or `signals`, and `labels` or `y`; with a folder, `x_<folder>` and so on.

    A single array, and a `.npy` file, have no labels.
    """
    with reading(str(path)):
        large = path.stat().st_size >= MAPPED_FROM
        stored = np.load(path, allow_pickle=False, mmap_mode="r" if large else None)  # has no effect on .npz
        if isinstance(stored, np.ndarray):
            if path.suffix.lower() != ".npy":
                raise ValueError("it holds one array without a name")
            if folder is None:
                return Arrays(stored, None)
            names = []
        else:
            with stored:
                names = list(stored)
                found = _without_folder(names, folder)
                values, labels = ([found[name] for name in known if name in found] for known in (_VALUES, LABEL_FIELDS))
                if len(found) == 1 and not values and folder is None:
                    values = [*found.values()]
                if values and (labels or len(found) == 1):
                    if not all(isinstance(stored[name], np.ndarray) for name in (*values[:1], *labels[:1])):
                        raise ValueError("an entry is not an array")
                    mapped = mapped_member(path, values[0])
                    images = stored[values[0]] if mapped is None else mapped
                    return Arrays(images, stored[labels[0]] if labels else None, found.get("signals") == values[0])
    wanted = " or ".join(
        f"{values!r} and {labels!r}"
        for values, labels in ([(f"x_{folder}", f"y_{folder}")] if folder else [("images", "labels"), ("x", "y")])
    )
    affixes = {name.lower().removeprefix(f"{known}_") for name in names for known in _VALUES}
    affixes |= {name.lower().removesuffix(f"_{known}") for name in names for known in _VALUES}
    folders = sorted(affix for affix in affixes if {*LABEL_FIELDS} & _without_folder(names, affix).keys())
    raise DataError(
        f"has no arrays {wanted}, only {', '.join(names[:LISTED]) or 'nothing'}",
        where=str(path),
        remedy=find_remedy("name the arrays images and labels", folders, bool(folder and names)),
    )


def mapped_member(path: Path, name: str) -> np.ndarray | None:
    """An array of a `.npz` file as a map of the file, of which only what is used is read; None if it is compressed.

    NumPy maps `.npy` files only. An uncompressed member of the archive is such a file, behind a header of 30 bytes, its
    name and an extra field (ZIP, APPNOTE 4.3.7).
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < MAPPED_FROM:
            return None
        file.seek(entry.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version not in read_header:
            return None
        shape, fortran, dtype = read_header[version](file)
        if dtype.hasobject:
            return None
        start, order = file.tell(), "F" if fortran else "C"
    return np.memmap(path, dtype, "r", start, shape, order)  # type: ignore[call-overload]


def _without_folder(names: Sequence[str], folder: str | None) -> dict[str, str]:
    """The arrays of a folder by their lower-case names without it: `x_train` or `train_images`, for example."""
    if folder is None:
        return {name.lower(): name for name in names}
    start, end = f"{folder.lower()}_", f"_{folder.lower()}"
    inside = [name for name in names if name.lower().startswith(start) or name.lower().endswith(end)]
    return {name.lower().removeprefix(start).removesuffix(end): name for name in inside}


def idx_files(root: Path) -> dict[tuple[str, str], Path]:
    """The IDX files in a directory, by folder ("train", "test") and content ("images", "labels")."""
    with reading(str(root)):
        matches = [(_IDX_NAME.fullmatch(path.name), path) for path in sorted(root.iterdir())]
    return {(match[1].replace("t10k", "test"), match[2]): path for match, path in matches if match}


def read_idx(root: Path, files: dict[tuple[str, str], Path], folder: str | None) -> Arrays:
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
    return Arrays(_parse_idx(files[folder, "images"], 3), _parse_idx(files[folder, "labels"], 1))


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


def as_samples(arrays: Arrays, where: str, preprocessing: Preprocessing) -> tuple[list[Sample], list[str]]:
    """Samples and class names from values [N, ...] and labels [N], [N, 1] or None.

    Other labels than whole numbers [N] are targets of another task than classification; they have no class names.

    Values are images [N, H, W], [N, C, H, W] or [N, H, W, C], signals [N, C, L], or tables [N, F].
    """
    labels = arrays.labels
    values = _as_values(arrays.values, arrays.are_signals, where)
    if labels is not None:
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.dtype.kind not in "biuf" or labels.ndim == 0:
            raise DataError(
                f"has labels of type {labels.dtype} and shape {list(labels.shape)} that are not numbers",
                where=where,
                remedy="give one class index from 0 for each image, or the targets of another task",
            )
        check_as_many(values, labels, where)
        if labels.dtype.kind in "iu" and labels.ndim == 1 and len(labels) and labels.max() >= MAX_CLASSES:
            reason = f"has the label {labels.max()}, which is no class"
            raise DataError(
                reason, where=where, remedy="number the classes from 0, or store quantities as float numbers"
            )
        labels = labels.astype({"f": np.float32, "b": np.bool_}.get(labels.dtype.kind, np.int64))  # as torch takes them
    if not len(values):
        raise DataError("holds no sample", where=where, remedy="give at least one image")
    scale = preprocessing.scale_of(values[0])
    if values.dtype != np.uint8 and scale == 255.0 and values.max() <= 1:
        warnings.warn(
            f"{where}: the images are at most 1 and are divided by 255. Remedy: set scale (--scale) to 1.",
            RheobaseWarning,
            stacklevel=4,
        )
    names: list[str] = []
    of_each: list[Any] = [None] * len(values)
    if labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1:
        names, of_each = [str(i) for i in range(int(labels.max()) + 1)], labels.tolist()
    elif labels is not None:
        of_each = list(torch.from_numpy(labels))
    pairs = zip(values, of_each, strict=True)
    return [Sample(f"{where} image {i}", label, value) for i, (value, label) in enumerate(pairs)], names


def _as_values(values: np.ndarray, are_signals: bool, where: str) -> np.ndarray:
    """Convert arrays to uint8 or float32 images [N, C, H, W], signals [N, C, L] or tables [N, F]."""
    most = 3 if are_signals else 4
    if values.dtype.kind not in "uif" or not 2 <= values.ndim <= most or 0 in values.shape[1:]:
        remedy = "give images [N, H, W], [N, C, H, W] or [N, H, W, C] with C of 1, 3 or 4, signals [N, C, L], or tables"
        raise DataError(
            f"has images of type {values.dtype} and shape {list(values.shape)}", where=where, remedy=f"{remedy} [N, F]"
        )
    if are_signals and values.ndim == 2:
        values = values[:, None]
    if values.ndim == 3 and not are_signals:
        if values.dtype != np.uint8 and values.shape[1] != values.shape[2]:
            reason = f"has values of shape {list(values.shape)}, which may be images [N, H, W] or signals [N, C, L]"
            remedy = "name the array signals, or add the axis of channels to images: [N, 1, H, W]"
            raise DataError(reason, where=where, remedy=remedy)
        values = values[:, None]
    elif values.ndim == 4 and values.shape[3] in (1, 3, 4) and values.shape[1] not in (1, 3, values.shape[3]):
        values = _without_alpha(values, where).transpose(0, 3, 1, 2)
    if values.dtype == np.uint8:
        return values
    values = values.astype(np.float32, copy=False)
    for start in range(0, len(values), _AT_ONCE):  # of a map, only this part is in memory
        part = values[start : start + _AT_ONCE]
        check_images(torch.from_numpy(np.array(part)), where, range(start, start + len(part)))
    return values


def _without_alpha(images: np.ndarray, where: str) -> np.ndarray:
    """The first three of four channels of images [N, H, W, C], as for image files."""
    if images.shape[3] != 4:
        return images
    alpha = images[..., 3]
    if len(alpha) and alpha.min() != alpha.max():
        warnings.warn(
            f"{where}: the fourth channel of the images, their opacity, is ignored, as in image files. "
            "Remedy: to keep four channels, store the images as [N, 4, H, W].",
            RheobaseWarning,
            stacklevel=5,
        )
    return images[..., :3]
