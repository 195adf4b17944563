"""Names of files in a folder or an archive, and what is behind them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")

Name = tuple[str, ...]
"""A path in the folder or archive, split at every "/"."""


class Stored(NamedTuple):
    """A file within an archive that is not compressed."""

    archive: Path
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """The content of the file."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


Content = Path | Stored | bytes | None
"""A file, or its bytes; None for a folder."""


def split_name(path: str) -> Name:
    """Split a path; a leading "/" and every "." are dropped.

    Example:
        >>> split_name("./cats/1.jpg")
        ('cats', '1.jpg')
    """
    return tuple(part for part in PurePosixPath(path).parts if part != "/")


def is_hidden(name: Iterable[str]) -> bool:
    """True for hidden files, and the files that macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name)


def is_image(name: Name) -> bool:
    """True for the endings of image files, in any case."""
    return name[-1].lower().endswith(ENDINGS)
