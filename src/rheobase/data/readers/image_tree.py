"""The layout `<class>/<name>` that image files have in a folder and in a tar archive alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.readers.image_dataset import Sample
from rheobase.data.readers.reading import LISTED

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
_LAYOUT = f"lay images out as <class>/<name> with one of the endings {' '.join(ENDINGS)}"

Parts = tuple[str, ...]
"""A name in the tree, split at every "/"."""


def parts_of(name: str) -> Parts:
    """Split a name; a leading "/" and every "." fall away."""
    return tuple(part for part in PurePosixPath(name).parts if part != "/")


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a name is passed over: hidden files, and what macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


class ImageTree:
    """The names in a folder or archive, noted one by one, and the images `<class>/<name>` beneath one of its folders.

    Attributes:
        base: that folder.
        images: what was found of the wanted images, by name: a file, or its bytes.
    """

    def __init__(self, folder: str | None) -> None:
        self.base = parts_of(folder or "")
        self.images: dict[Parts, Path | bytes] = {}
        self._names: list[tuple[Parts, bool]] = []

    def wants(self, parts: Parts, is_folder: bool) -> bool:
        """Note a name; true for an image `<class>/<name>` beneath the base."""
        self._names.append((parts, is_folder))
        return _is_image(parts, is_folder) and len(parts) == len(self.base) + 2 and parts[:-2] == self.base

    def samples(self, where: str) -> tuple[list[Sample], list[str]]:
        """The images in order, and the names of their classes; a tree whose classes would be miscounted is refused.

        Raises:
            DataError: if there is no image, or a class folder has none.
        """
        depth = len(self.base)
        beneath = [(parts, is_folder) for parts, is_folder in self._names if parts[:depth] == self.base != parts]
        if not self.images:
            place = f" beneath the folder {'/'.join(self.base)!r}" if self.base else ""
            raise DataError(f"holds no images{place}", where=where, remedy=f"{_LAYOUT}{self._choices()}")
        classes = sorted({parts[depth] for parts, is_folder in beneath if is_folder or len(parts) > depth + 1})
        empty = sorted(set(classes) - {parts[-2] for parts in self.images})
        if empty:
            raise DataError(
                f"class folder {'/'.join((*self.base, empty[0]))!r} holds no image of its own",
                where=where,
                remedy=f"take it away; {_LAYOUT}{self._choices()}",
            )
        strays = ["/".join(parts) for parts, is_folder in beneath if _is_image(parts, is_folder)]
        strays = sorted(set(strays) - {"/".join(parts) for parts in self.images})
        if strays:
            warnings.warn(
                f"{where}: {len(strays)} images are not laid out as <class>/<name> and are left out, "
                f"such as {strays[0]}.",
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
        """The folders beneath which there are images `<class>/<name>`, as a remedy."""
        homes = {parts[:-2] for parts, is_folder in self._names if _is_image(parts, is_folder) and len(parts) > 1}
        others = sorted("/".join(home) for home in homes - {(), self.base})
        choices = [f"choose folder (--folder) {' or '.join(others[:LISTED])}"] if others else []
        if () in homes and self.base:
            choices.append("leave folder out")
        return "".join(f", or {choice}" for choice in choices)


def _is_image(parts: Parts, is_folder: bool) -> bool:
    return not is_folder and parts[-1].lower().endswith(ENDINGS)
