"""Image files `<class>/<name>`, or `<name>` without a label, in a folder or a tar archive."""

from __future__ import annotations

import os
import re
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.readers.image_dataset import Sample, find_remedy, reading

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
"""Names of folders that contain a part of the data, in any case."""
_DEPTH = 5
"""Maximum depth of nested folders, because links may form a cycle."""

Name = tuple[str, ...]
"""A path in the folder or archive, split at every "/"."""
Content = Path | bytes | None
"""A file or its bytes; None for a folder."""


def is_tar(path: Path) -> bool:
    """True for the name of a tar archive."""
    return re.fullmatch(r".*\.tar(\.gz|\.xz|\.bz2)?", path.name, re.IGNORECASE) is not None


def read_image_files(path: Path, folder: str | None) -> tuple[list[Sample], list[str]]:
    """The images `<class>/<name>` in a folder of ``path`` in order, and the names of their classes.

    If the folder contains images only, they have no labels.
    """
    where, base = str(path), _split(folder or "")

    def is_wanted(name: Name) -> bool:
        return len(name) > 1 and name[:-2] == base and _is_image(name)

    def is_direct(name: Name) -> bool:
        return name[:-1] == base and _is_image(name)

    with reading(where):
        if is_tar(path) and not path.is_dir():
            found: dict[Name, Content] = dict(_in_tar(path, lambda name: is_wanted(name) or is_direct(name)))
        else:
            found = dict(_in_folder(path.joinpath(*base), base))
            if base and not any(is_wanted(name) or is_direct(name) for name in found):
                found = dict(_in_folder(path, ()))  # only to list the folders for the remedy
    files = {name: content for name, content in sorted(found.items()) if content is not None and _is_image(name)}
    images = {name: content for name, content in files.items() if is_wanted(name)}
    depth = len(base)
    below = {name for name in found if name[:depth] == base != name}
    classes = sorted({name[depth] for name in below if found[name] is None or len(name) > depth + 1})
    homes = {name[:-2] for name in files if len(name) > 1}
    layout = f"store images as <class>/<name> with one of the endings {' '.join(ENDINGS)}"
    others = sorted("/".join(home) for home in homes - {(), base})
    remedy = find_remedy(layout, others, bool(base) and () in homes)
    direct = [name for name in files if is_direct(name)]
    if direct and all(name in direct for name in files if name in below):
        return [_sample(where, name, None, files[name]) for name in direct], []
    if not images:
        reason = "holds no images" + (f" in the folder {'/'.join(base)!r}" if base else "")
        raise DataError(reason, where=where, remedy=remedy)
    if {name.lower() for name in classes} <= PARTS:
        reason = f"contains the folders {', '.join(classes)}, which are parts of the data and not classes"
        parts = ["/".join((*base, name)) for name in classes]
        raise DataError(reason, where=where, remedy=find_remedy("name class folders otherwise", parts, False))
    empty = sorted(set(classes) - {name[-2] for name in images})
    if empty:
        reason = f"class folder {'/'.join((*base, empty[0]))!r} holds no image"
        raise DataError(reason, where=where, remedy=f"remove it; {remedy}")
    strays = ["/".join(name) for name in files if name in below and name not in images]
    if strays:
        warnings.warn(
            f"{where}: {len(strays)} images are not stored as <class>/<name> and are ignored, such as {strays[0]}. "
            "Remedy: move them into class folders.",
            RheobaseWarning,
            stacklevel=4,
        )
    index = {name: i for i, name in enumerate(classes)}
    return [_sample(where, name, index[name[-2]], content) for name, content in images.items()], classes


def _sample(where: str, name: Name, label: int | None, content: Path | bytes) -> Sample:
    return Sample(str(content) if isinstance(content, Path) else f"{where}:{'/'.join(name)}", label, content)


def _split(path: str) -> Name:
    """Split a path; a leading "/" and every "." are dropped."""
    return tuple(part for part in PurePosixPath(path).parts if part != "/")


def _is_hidden(name: Iterable[str]) -> bool:
    """True for hidden files, and the files that macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name)


def _is_image(name: Name) -> bool:
    return name[-1].lower().endswith(ENDINGS)


def _in_folder(top: Path, above: Name, depth: int = _DEPTH) -> Iterator[tuple[Name, Content]]:
    """Everything in a folder; nothing if the folder does not exist."""
    for entry in os.scandir(top) if top.is_dir() else ():
        if _is_hidden([entry.name]):
            continue
        name, path = (*above, entry.name), Path(entry.path)
        yield name, None if entry.is_dir() else path
        if entry.is_dir() and depth > 1:
            yield from _in_folder(path, name, depth - 1)


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


def _in_tar(path: Path, is_wanted: Callable[[Name], bool]) -> Iterator[tuple[Name, Content]]:
    """Everything in an archive; wanted images with their encoded bytes, other files without bytes."""
    # One pass from start to end, because a compressed archive has no random access; a larger buffer is slower.
    with _StrictTar.open(path, "r|*") as archive:
        for member in archive:
            name = _split(member.name)
            if not name or _is_hidden(name):
                continue
            content: Content = None if member.isdir() else b""
            if content is not None and is_wanted(name):
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None:
                    raise DataError(
                        "is a link or a device, which cannot be followed in one pass through the archive",
                        where=f"{path}:{member.name}",
                        remedy="pack the archive again with tar --dereference --hard-dereference",
                    )
                content = stream.read()
            yield name, content
