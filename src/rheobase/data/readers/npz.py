"""NumPy's `.npz` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rheobase.core.errors import DataError
from rheobase.data.readers.reading import LISTED, reading


def read_npz(path: Path, folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `images` and `labels`, or `x` and `y`; with a folder, `x_<folder>` and `y_<folder>`.

    Raises:
        DataError: if the arrays are missing, or the file cannot be read.
    """
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
    folders = sorted(name[2:] for name in names if name.startswith("x_") and f"y_{name[2:]}" in names)
    choices = [f"choose folder (--folder) {' or '.join(folders)}"] if folders else []
    if folder and names:
        choices.append("leave folder out")
    wanted = " or ".join(f"{images!r} and {labels!r}" for images, labels in pairs)
    raise DataError(
        f"has no arrays {wanted}, only {', '.join(names[:LISTED]) or 'nothing'}",
        where=str(path),
        remedy=", or ".join(["name the arrays images and labels", *choices]),
    )
