"""The binary files of CIFAR-10 and CIFAR-100: records of label bytes and 32×32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rheobase.core.errors import DataError
from rheobase.data.readers.arrays import Arrays
from rheobase.data.readers.image_dataset import reading

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """The files of a version by part of the data, its label bytes (the last is the class), and the file of names."""

    files: dict[str, tuple[str, ...]]
    labels: int
    names: str

    def is_in(self, root: Path) -> bool:
        """True if a file of this version is in a folder, next to its class names or the other files."""
        return (root / self.names).is_file() and any((root / f).is_file() for part in self.files.values() for f in part)


LAYOUTS = (
    Layout(
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        labels=1,
        names="batches.meta.txt",
    ),
    Layout({"train": ("train.bin",), "test": ("test.bin",)}, labels=2, names="fine_label_names.txt"),
)
PICKLES = ("data_batch_1", "batches.meta", "fine_label_names", "meta")
"""Files of the version for Python, which are pickles."""


def cifar_layout(root: Path) -> Layout | None:
    """The version whose binary files are in a folder; None if it holds none.

    Raises:
        DataError: for the version for Python, which would run code when it is read.
    """
    with reading(str(root)):
        found = next((layout for layout in LAYOUTS if layout.is_in(root)), None)
        if found is None and (root / "test_batch").is_file() and (root / PICKLES[0]).is_file():
            remedy = "download the binary version, or give torchvision's data set by module:function"
            raise DataError("holds CIFAR-10 as Python pickles, which are not read", where=str(root), remedy=remedy)
    return found


def read_cifar(root: Path, layout: Layout, folder: str | None) -> tuple[Arrays, list[str]]:
    """Images, mapped from the files and not read into memory, classes, and class names of one part of the data.

    Several files are one array, which is read into memory: 150 MB.
    """
    parts = [name for name, files in layout.files.items() if any((root / file).is_file() for file in files)]
    if folder is None and len(parts) == 1:
        folder = parts[0]
    if folder not in layout.files:
        reason = "holds both train and test data" if folder is None else f"holds no part {folder!r} of CIFAR"
        raise DataError(reason, where=str(root), remedy=f"choose folder (--folder) {' or '.join(parts)}")
    missing = [file for file in layout.files[folder] if not (root / file).is_file()]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}", where=str(root), remedy="download or unpack it again")
    records = [_records(root / file, layout) for file in layout.files[folder]]
    whole = records[0] if len(records) == 1 else np.concatenate(records)
    with reading(str(root / layout.names)):
        names = (root / layout.names).read_text().split()
    labels = whole[:, layout.labels - 1].astype(np.int64)
    if len(labels) and labels.max() >= len(names):
        reason = f"has the label {labels.max()}, but {layout.names} has {len(names)} names"
        raise DataError(reason, where=str(root), remedy="download or unpack it again")
    return Arrays(whole[:, layout.labels :].reshape(-1, *SHAPE), labels), names


def _records(path: Path, layout: Layout) -> np.ndarray:
    size = layout.labels + PIXELS
    with reading(str(path)):
        length = path.stat().st_size
        if not length or length % size:
            raise ValueError(f"it has {length} bytes, which are no records of {size}")
        return np.memmap(path, np.uint8, mode="r").reshape(-1, size)
