"""Paths from the user, the contents of output folders, and files written atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rheobase.core.errors import StoreError


def user_path(given: str | os.PathLike[str]) -> Path:
    """A path from the user, with ``~`` as the home folder, which a shell does not replace after ``=``."""
    return Path(os.path.expanduser(given))


def as_path(given: object, where: str = "path") -> Path:
    """Return a valid path, with ``~`` as the home folder; the file or folder need not exist.

    Raises:
        StoreError: if ``given`` is not a path, is too long, or contains an invalid character.
    """
    if not isinstance(given, str | os.PathLike):
        raise StoreError(f"is {given!r}", where=where, remedy="pass a path")
    path = user_path(given)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # reported by the caller when it opens the path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        place = repr(str(path))[:100]
        raise StoreError(f"is not a valid path ({reason})", where=place, remedy="choose another path") from None
    return path


def names_in(folder: Path, *, hidden: bool = False) -> set[str]:
    """Names in a folder, those with a leading dot only if ``hidden``; empty if the folder does not exist.

    Raises:
        StoreError: if ``folder`` is a file.
    """
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise StoreError("is a file, not a folder", where=str(folder), remedy="choose another folder")
    return {path.name for path in folder.iterdir() if hidden or not path.name.startswith(".")}


def refuse_foreign(folder: Path, ours: Collection[str], what: str, *, hidden: bool = False) -> None:
    """Refuse a folder with names other than ``ours``, which are ``what``, before its contents are replaced.

    Raises:
        StoreError: if the folder contains another name (those with a leading dot count if ``hidden``), or is a file.
    """
    if foreign := names_in(folder, hidden=hidden) - set(ours):
        problem = f"contains {min(foreign)!r}, which is not part of {what}"
        raise StoreError(problem, where=str(folder), remedy="choose another folder")


def check_writable(folder: Path) -> None:
    """Raise a StoreError if a folder can neither be written nor created; it is not created."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".rheobase-", dir=place):
            pass
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise StoreError(problem, where=str(folder), remedy="choose a folder you can write to") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file atomically: a context with the path to write, which replaces ``path`` if no error was raised.

    Raises:
        StoreError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        remedy = "move the folder of this name away" if path.is_dir() else "check free space and permissions"
        problem = f"cannot be written ({error.strerror or error})"
        raise StoreError(problem, where=str(path), remedy=remedy) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically, as :func:`whole_file` does."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
