"""The layout `<class>/<name>` of image files in a folder or a tar archive."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.readers.image_dataset import Sample
from rheobase.data.readers.reading import LISTED

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
_LAYOUT = f"store images as <class>/<name> with one of the endings {' '.join(ENDINGS)}"

Parts = tuple[str, ...]
"""A name in the tree, split at every "/"."""


def parts_of(name: str) -> Parts:
    """Split a name; a leading "/" and every "." are dropped."""
    return tuple(part for part in PurePosixPath(name).parts if part != "/")


def is_hidden(parts: Iterable[str]) -> bool:
    """True for hidden files, and the files that macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


class ImageTree:
    """The names in a folder or archive, and the images `<class>/<name>` in one of its folders.

    Attributes:
        base: path of this folder.
        images: the images that were found, by name: a file, or its bytes.
    """

    def __init__(self, folder: str | None) -> None:
        self.base = parts_of(folder or "")
        self.images: dict[Parts, Path | bytes] = {}
        self._names: list[tuple[Parts, bool]] = []

    def wants(self, parts: Parts, is_folder: bool) -> bool:
        """Record a name; True for an image `<class>/<name>` in the base folder."""
        self._names.append((parts, is_folder))
        return _is_image(parts, is_folder) and len(parts) == len(self.base) + 2 and parts[:-2] == self.base

    def samples(self, where: str) -> tuple[list[Sample], list[str]]:
        """The images in order, and the names of their classes.

        Raises:
            DataError: if there is no image, or a class folder contains none.
        """
        depth = len(self.base)
        below = [(parts, is_folder) for parts, is_folder in self._names if parts[:depth] == self.base != parts]
        if not self.images:
            place = f" in the folder {'/'.join(self.base)!r}" if self.base else ""
            raise DataError(f"holds no images{place}", where=where, remedy=f"{_LAYOUT}{self._choices()}")
        classes = sorted({parts[depth] for parts, is_folder in below if is_folder or len(parts) > depth + 1})
        empty = sorted(set(classes) - {parts[-2] for parts in self.images})
        if empty:
            raise DataError(
                f"class folder {'/'.join((*self.base, empty[0]))!r} holds no image",
                where=where,
                remedy=f"remove it; {_LAYOUT}{self._choices()}",
            )
        strays = ["/".join(parts) for parts, is_folder in below if _is_image(parts, is_folder)]
        strays = sorted(set(strays) - {"/".join(parts) for parts in self.images})
        if strays:
            warnings.warn(
                f"{where}: {len(strays)} images are not stored as <class>/<name> and are ignored, "
                f"such as {strays[0]}. Remedy: move them into class folders.",
                RheobaseWarning,
                stacklevel=5,
            )
        index = {name: i for i, name in enumerate(classes)}
        return [
            Sample(
                str(content) if isinstance(content, Path) else f"{where}:{'/'.join(parts)}", index[parts[-2]], content
            )
            for parts, content in sorted(self.images.items())
        ], classes

    def _choices(self) -> str:
        """A remedy that lists the folders with images `<class>/<name>`."""
        folders = {parts[:-2] for parts, is_folder in self._names if _is_image(parts, is_folder) and len(parts) > 1}
        others = sorted("/".join(home) for home in folders - {(), self.base})
        choices = [f"choose folder (--folder) {' or '.join(others[:LISTED])}"] if others else []
        if () in folders and self.base:
            choices.append("leave folder out")
        return "".join(f", or {choice}" for choice in choices)


def _is_image(parts: Parts, is_folder: bool) -> bool:
    return not is_folder and parts[-1].lower().endswith(ENDINGS)
