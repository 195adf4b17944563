"""The IDX files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import numpy as np

from rheobase.core.errors import DataError
from rheobase.data.readers.reading import reading

_NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_FOLDERS = {"train": "train", "t10k": "test"}


def idx_files(root: Path) -> dict[tuple[str, str], Path]:
    """The IDX files in a directory, by folder ("train", "test") and content ("images", "labels")."""
    with reading(str(root)):
        matches = [(_NAME.fullmatch(path.name), path) for path in sorted(root.iterdir())]
    return {(_FOLDERS[match[1]], match[2]): path for match, path in matches if match}


def read_idx(root: Path, files: dict[tuple[str, str], Path], folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W] and labels [N] of one folder.

    Raises:
        DataError: if the folder must be chosen, or a file of it is missing or cannot be read.
    """
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
    return _parse(files[folder, "images"], 3), _parse(files[folder, "labels"], 1)


def _parse(path: Path, ndim: int) -> np.ndarray:
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
