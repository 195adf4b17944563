"""One kind of error for all failures to read a file."""

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
"""Maximum number of names in an error."""


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn every failure to read ``where`` into a DataError."""
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
        SyntaxError,  # raised by Pillow for a broken PNG
        zlib.error,
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as cause:
        raise DataError(
            f"is damaged, truncated or of another kind ({str(cause) or type(cause).__name__})",
            where=where,
            remedy="download or write it again",
        ) from cause
