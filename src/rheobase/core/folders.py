"""Folders that are written to: what they hold, whether they can be written, files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from rheobase.core.errors import StoreError


def names_in(folder: Path, *, hidden: bool = False) -> set[str]:
    """What a folder holds; nothing if there is none. Names with a dot in front are files that are being written.

    Raises:
        StoreError: if it is a file.
    """
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise StoreError("is a file, not a folder", where=str(folder), remedy="choose another folder")
    return {path.name for path in folder.iterdir() if hidden or not path.name.startswith(".")}


def refuse_foreign(folder: Path, ours: Collection[str], what: str, *, hidden: bool = False) -> None:
    """See that a folder holds nothing but what is ours to replace.

    Raises:
        StoreError: naming something that it holds besides ``what``.
    """
    foreign = names_in(folder, hidden=hidden) - set(ours)
    if foreign:
        raise StoreError(
            f"holds something else than {what} ({min(foreign)})", where=str(folder), remedy="choose another folder"
        )


def check_writable(folder: Path) -> None:
    """See that a folder can be written, or made; it is not made yet.

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
    """Write a text file, whole or not at all.

    Raises:
        StoreError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        remedy = "move that folder away" if path.is_dir() else "free space there"
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path), remedy=remedy) from error
