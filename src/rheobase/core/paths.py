"""Paths that a user gives."""

from __future__ import annotations

import os
from pathlib import Path

from rheobase.core.errors import StoreError


def as_path(given: object, where: str = "path") -> Path:
    """A path that the system can look up, whether anything is there or not.

    Raises:
        StoreError: if it is no path, too long, or holds a character that no path can.
    """
    if not isinstance(given, str | os.PathLike):
        raise StoreError(f"is {given!r}", where=where, remedy="give a path")
    path = Path(given)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # for whoever opens it to say
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"is no path that there can be ({reason})", where=repr(str(path))[:100]) from None
    return path
