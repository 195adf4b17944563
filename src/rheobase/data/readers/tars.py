"""Tar archives: a single one, or many shards of one data set."""

from __future__ import annotations

import itertools
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.readers.image_dataset import DamagedError, reading
from rheobase.data.readers.names import Content, Name, Stored, is_hidden, split_name


class Member(NamedTuple):
    """A file or folder in an archive."""

    archive: Path
    name: Name
    content: Content


def is_tar(path: Path) -> bool:
    """True for the name of a tar archive."""
    return re.fullmatch(r".*\.tar(\.gz|\.xz|\.bz2)?", path.name, re.IGNORECASE) is not None


def is_pattern(path: Path) -> bool:
    """True for a pattern of names of archives, such as ``train-{000..146}.tar`` or ``train-*.tar``."""
    return is_tar(path) and re.search(r"[*?]|\{\d+\.\.\d+\}", path.name) is not None


def archives(path: Path) -> list[Path]:
    """The archives that a path stands for, in order: one, those of a pattern, or those of a folder with nothing else.

    Raises:
        DataError: if an archive of a range does not exist, or none fits the pattern.

    Example:
        >>> archives(Path("one.tar"))
        [PosixPath('one.tar')]
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if not is_hidden([file.name])]
        return files if all(is_tar(file) and not file.is_dir() for file in files) else []
    if path.exists() or not is_pattern(path):
        return [path] if is_tar(path) else []
    names = _names(path.name)
    if not names:
        remedy = "put the lower number first, as in train-{000..146}.tar"
        raise DataError("has a range that ends before it starts", where=str(path), remedy=remedy)
    found = {name: [path.parent / name] for name in names}
    found |= {name: sorted(path.parent.glob(name)) for name in names if not found[name][0].exists()}
    missing = [name for name, files in found.items() if not files]
    if missing:
        reason = f"stands for {len(names)} archives, of which {len(missing)} do not exist, such as {missing[0]}"
        if len(names) == 1:
            reason = "fits no file"
        raise DataError(reason, where=str(path), remedy="check the pattern, such as train-{000..146}.tar")
    return [file for files in found.values() for file in files]


def _names(pattern: str) -> list[str]:
    """All names of a pattern with ranges {a..b}, with as many digits as a has."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    ranges = [(first, int(first), int(last)) for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    if any(last < first for _, first, last in ranges):
        return []
    choices = [[f"{n:0{len(digits)}}" for n in range(first, last + 1)] for digits, first, last in ranges]
    return [
        "".join(itertools.chain(*zip(parts[::3], (*chosen, ""), strict=True)))
        for chosen in itertools.product(*choices)
    ]  # fmt: skip


def read_members(
    paths: list[Path], is_wanted: Callable[[Name], bool], is_small: Callable[[Name], bool], *, skip_damaged: bool
) -> Iterator[Member]:
    """Everything in archives that is not hidden, in order.

    Wanted files of a compressed archive are read into memory, which has no random access; those of another archive
    stay where they are. Small files are read in any case, all others are b"".

    Args:
        paths: the archives.
        is_wanted: whether a file is wanted.
        is_small: whether a file is small.
        skip_damaged: of a damaged archive, yield what is before the damage, and warn.

    Raises:
        DataError: naming an archive that is damaged or cannot be read, or a member that is a link.
    """
    for path in paths:
        try:
            with reading(str(path)):
                yield from _members(path, is_wanted, is_small)
        except DamagedError as error:
            if not skip_damaged:
                raise
            warnings.warn(f"{error.where}: {error.reason}; the rest of it is left out", RheobaseWarning, stacklevel=2)


def _members(path: Path, is_wanted: Callable[[Name], bool], is_small: Callable[[Name], bool]) -> Iterator[Member]:
    with path.open("rb") as file:
        is_compressed = file.read(6).startswith((b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh"))
    # One pass from start to end of a compressed archive; a larger buffer is slower.
    with _StrictTar.open(path, "r|*" if is_compressed else "r:") as archive:
        for member in archive:
            name = split_name(member.name)
            if not name or is_hidden(name):
                continue
            content: Content = None if member.isdir() else b""
            if content is not None and (is_wanted(name) or is_small(name)):
                if not member.isfile():
                    raise DataError(
                        "is a link or a device, which cannot be followed in one pass through the archive",
                        where=f"{path}:{member.name}",
                        remedy="pack the archive again with tar --dereference --hard-dereference",
                    )
                if is_compressed or is_small(name):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    content = stream.read()
                else:
                    content = Stored(path, member.offset_data, member.size)
            yield Member(path, name, content)


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
