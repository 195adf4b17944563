"""Whatever goes wrong in reading a file, as one kind of error."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from rheobase.core.errors import DataError, RheobaseError

LISTED = 10
"""How many names an error lists at most."""


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever goes wrong in reading ``where`` into a DataError."""
    try:
        yield
    except RheobaseError:
        raise
    except PermissionError as cause:
        name = str(cause.filename) if cause.filename else where
        raise DataError("may not be read", where=name, remedy="give yourself read permission") from cause
    except (
        OSError,
        EOFError,
        ValueError,
        SyntaxError,  # Pillow's, for a broken PNG
        zlib.error,
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as cause:
        raise DataError(
            f"is damaged, truncated or of another kind ({str(cause) or type(cause).__name__})",
            where=where,
            remedy="fetch or write it again",
        ) from cause
