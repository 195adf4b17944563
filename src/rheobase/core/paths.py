"""Paths from the user."""

from __future__ import annotations

import os
from pathlib import Path

from rheobase.core.errors import StoreError


def as_path(given: object, where: str = "path") -> Path:
    """Return a valid path; the file or folder need not exist.

    Raises:
        StoreError: if ``given`` is not a path, is too long, or contains an invalid character.
    """
    if not isinstance(given, str | os.PathLike):
        raise StoreError(f"is {given!r}", where=where, remedy="pass a path")
    path = Path(given)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # reported by the caller when it opens the path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"is not a valid path ({reason})", where=repr(str(path))[:100], remedy="choose another path"
        ) from None
    return path
