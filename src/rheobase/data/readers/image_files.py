"""Image files `<class>/<name>`, or `<name>` without a label, in a folder or in tar archives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.readers.image_dataset import Sample, find_remedy, reading
from rheobase.data.readers.label_files import has_label_files, is_label, read_label_files
from rheobase.data.readers.names import ENDINGS, Content, Name, Stored, is_hidden, is_image, split_name
from rheobase.data.readers.tars import Member, archives, read_members

PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
"""Names of folders that contain a part of the data, in any case."""
_DEPTH = 5
"""Maximum depth of nested folders, because links may form a cycle."""


def read_image_files(path: Path, folder: str | None, *, skip_damaged: bool = False) -> tuple[list[Sample], list[str]]:
    """The images `<class>/<name>` in a folder of ``path`` in order, and the names of their classes.

    If the folder contains images only, they have no labels. ``path`` may also stand for archives
    (:func:`rheobase.data.readers.tars.archives`), in which files of the same name may give the labels.
    """
    where, base = str(path), split_name(folder or "")

    def is_wanted(name: Name) -> bool:
        return len(name) > 1 and name[:-2] == base and is_image(name)

    def is_direct(name: Name) -> bool:
        return name[:-1] == base and is_image(name)

    with reading(where):
        found: dict[Name, Content] = {}
        if tars := archives(path):
            members = list(
                read_members(tars, lambda name: is_wanted(name) or is_direct(name), is_label, skip_damaged=skip_damaged)
            )
            if has_label_files(members, base):
                return read_label_files(members), []
            found = _unique(members)
        else:
            found = dict(_in_folder(path.joinpath(*base), base))
            if base and not any(is_wanted(name) or is_direct(name) for name in found):
                found = dict(_in_folder(path, ()))  # only to list the folders for the remedy
    files = {name: content for name, content in sorted(found.items()) if content is not None and is_image(name)}
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


def _sample(where: str, name: Name, label: int | None, content: Path | Stored | bytes) -> Sample:
    where = str(content.archive) if isinstance(content, Stored) else where
    return Sample(str(content) if isinstance(content, Path) else f"{where}:{'/'.join(name)}", label, content)


def _unique(members: Iterable[Member]) -> dict[Name, Content]:
    """Members of archives by name; refuse a file that two archives hold."""
    found: dict[Name, Content] = {}
    homes: dict[Name, Path] = {}
    for archive, name, content in members:
        if content is not None and homes.setdefault(name, archive) != archive:
            reason = f"is in {homes[name].name} too"
            raise DataError(reason, where=f"{archive}:{'/'.join(name)}", remedy="give the files of shards other names")
        found[name] = content
    return found


def _in_folder(top: Path, above: Name, depth: int = _DEPTH) -> Iterator[tuple[Name, Content]]:
    """Everything in a folder; nothing if the folder does not exist."""
    for entry in os.scandir(top) if top.is_dir() else ():
        if is_hidden([entry.name]):
            continue
        name, path = (*above, entry.name), Path(entry.path)
        yield name, None if entry.is_dir() else path
        if entry.is_dir() and depth > 1:
            yield from _in_folder(path, name, depth - 1)
