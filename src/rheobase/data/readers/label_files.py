"""Images with their labels in files of the same name, as in the shards of webdataset: ``0001.jpg`` and ``0001.cls``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rheobase.core.errors import DataError
from rheobase.data.readers.image_dataset import Sample, reading
from rheobase.data.readers.names import Name, is_image
from rheobase.data.readers.tars import Member

CLASS, FIELDS_FILE = "cls", "json"
"""Endings: a whole number; an object with one of the fields."""
FIELDS = ("label", "cls", "class", "target")


def is_label(name: Name) -> bool:
    """True for the name of a file with a label. The ending is what follows the first dot, as in webdataset."""
    return _ending(name) in (CLASS, FIELDS_FILE)


def has_label_files(members: Sequence[Member], base: Name) -> bool:
    """Whether images have labels in files of the same name.

    Next to an image in a class folder, a JSON file is ignored; ``base`` is the folder that holds class folders.
    """
    images = {(member.archive, _key(member.name)) for member in members if is_image(member.name)}
    return any(
        (member.archive, _key(member.name)) in images
        and (_ending(member.name) == CLASS or (_ending(member.name) == FIELDS_FILE and member.name[:-1] == base))
        for member in members
    )


def read_label_files(members: Sequence[Member]) -> list[Sample]:
    """The images of archives in order, each with its label; of two files with labels the ``.cls`` counts.

    Raises:
        DataError: if an image has no label, or a file names no class.
    """
    labels = {(m.archive, _key(m.name), _ending(m.name)): m for m in members if is_label(m.name)}
    found, bare = [], []
    for archive, name, content in members:
        if not is_image(name) or not content:  # an empty one was not wanted
            continue
        known = [labels[key] for ending in (CLASS, FIELDS_FILE) if (key := (archive, _key(name), ending)) in labels]
        where = _where(archive, name)
        if known:
            found.append(Sample(where, _label(known[0]), content))
        else:
            bare.append((where, name))
    if bare:
        (where, name), more = bare[0], f", like {len(bare) - 1} more" if bare[1:] else ""
        raise DataError(f"has no label{more}", where=where, remedy=f"add {_key(name)}.cls with the number of its class")
    return found


def _key(name: Name) -> str:
    return "/".join((*name[:-1], name[-1].partition(".")[0]))


def _ending(name: Name) -> str:
    return name[-1].partition(".")[2].lower()


def _label(member: Member) -> int:
    assert isinstance(member.content, bytes)
    where = _where(member.archive, member.name)
    with reading(where):
        value = json.loads(member.content)  # a whole number too
    if isinstance(value, dict):
        value = next((value[field] for field in FIELDS if field in value), None)
    if type(value) is not int:
        remedy = f"give a whole number, or an object with one as {' or '.join(FIELDS)}"
        raise DataError("names no class", where=where, remedy=remedy)
    return value


def _where(archive: Path, name: Name) -> str:
    return f"{archive}:{'/'.join(name)}"
