"""Tar archives of image files, which are kept encoded in memory."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

from rheobase.core.errors import DataError
from rheobase.data.readers.image_dataset import Sample
from rheobase.data.readers.image_tree import ImageTree, is_hidden, parts_of
from rheobase.data.readers.reading import reading

_NAME = re.compile(r".*\.(tar|tar\.gz|tar\.xz|tar\.bz2)", re.IGNORECASE)


def is_tar(path: Path) -> bool:
    """True for the name of a tar archive."""
    return _NAME.fullmatch(path.name) is not None


class _StrictInfo(tarfile.TarInfo):
    """A header reader that refuses a damaged header; tarfile would treat it as the end of the archive."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _StrictInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as cause:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(f"{cause} in place of a member or the end mark") from cause


class _StrictTar(tarfile.TarFile):
    tarinfo = _StrictInfo


def read_image_tar(path: Path, folder: str | None) -> tuple[list[Sample], list[str]]:
    """The images `<class>/<name>` in a folder of the archive, and the names of their classes."""
    tree = ImageTree(folder)
    # One pass from start to end, because a compressed archive has no random access; a larger buffer is slower.
    with reading(str(path)), _StrictTar.open(path, "r|*") as archive:
        for member in archive:
            parts = parts_of(member.name)
            if not parts or is_hidden(parts) or not tree.wants(parts, member.isdir()):
                continue
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                raise DataError(
                    "is a link or a device, which cannot be followed in one pass through the archive",
                    where=f"{path}:{member.name}",
                    remedy="pack the archive again with tar --dereference --hard-dereference",
                )
            tree.images[parts] = stream.read()
    return tree.samples(str(path))
