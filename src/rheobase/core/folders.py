"""Output folders: list their contents, check that they are writable, and write files atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from rheobase.core.errors import StoreError


def names_in(folder: Path, *, hidden: bool = False) -> set[str]:
    """Names in a folder; empty if the folder does not exist.

    Args:
        folder: the folder.
        hidden: include names that start with a dot, such as files that are still being written.

    Raises:
        StoreError: if ``folder`` is a file.
    """
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise StoreError("is a file, not a folder", where=str(folder), remedy="choose another folder")
    return {path.name for path in folder.iterdir() if hidden or not path.name.startswith(".")}


def refuse_foreign(folder: Path, ours: Collection[str], what: str, *, hidden: bool = False) -> None:
    """Refuse a folder with foreign files, before its contents are replaced.

    Args:
        folder: the folder.
        ours: names that may be replaced.
        what: description of those, for the message.
        hidden: also check names that start with a dot.

    Raises:
        StoreError: if the folder contains another name.
    """
    foreign = names_in(folder, hidden=hidden) - set(ours)
    if foreign:
        raise StoreError(
            f"contains {min(foreign)!r}, which is not part of {what}",
            where=str(folder),
            remedy="choose another folder",
        )


def check_writable(folder: Path) -> None:
    """Check that a folder can be written or created, without creating it.

    Raises:
        StoreError: if it cannot.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".rheobase-", dir=place):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", where=str(folder), remedy="choose a folder you can write to"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        StoreError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        remedy = "move the folder of this name away" if path.is_dir() else "check free space and permissions"
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path), remedy=remedy) from error
