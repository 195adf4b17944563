"""A folder of image files."""

from __future__ import annotations

import os
from pathlib import Path

from rheobase.data.readers.image_dataset import Sample
from rheobase.data.readers.image_tree import ImageTree, Parts, is_hidden
from rheobase.data.readers.reading import reading

_DEPTH = 5
"""Maximum depth of nested folders, because links may form a cycle."""


def read_image_folder(root: Path, folder: str | None) -> tuple[list[Sample], list[str]]:
    """The images `<class>/<name>` in a folder of ``root``, and the names of their classes."""
    tree = ImageTree(folder)
    with reading(str(root)):
        top = root.joinpath(*tree.base)
        if top.is_dir():
            _walk(top, tree.base, tree)
        if not tree.images and tree.base:
            _walk(root, (), tree)  # only to list the folders for the remedy
    return tree.samples(str(root))


def _walk(top: Path, above: Parts, tree: ImageTree) -> None:
    for entry in os.scandir(top):
        if is_hidden([entry.name]):
            continue
        parts, is_folder = (*above, entry.name), entry.is_dir()
        if tree.wants(parts, is_folder):
            tree.images[parts] = Path(entry.path)
        elif is_folder and len(parts) - len(tree.base) < _DEPTH:
            _walk(Path(entry.path), parts, tree)
