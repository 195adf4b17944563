"""YAML as people write it for us: one document in which no name is given twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rheobase.core.errors import RecipeError, RheobaseError


class _Loader(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML lets pass: of two equal keys the last one would silently count."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    names: list[Any] = []
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        name = loader.construct_object(key, deep=True)
        if name in names:
            raise yaml.MarkedYAMLError(problem=f"{name!r} is given twice", problem_mark=key.start_mark)
        names.append(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, where: str, refusal: type[RheobaseError] = RecipeError) -> Any:
    """What a text says.

    Raises:
        RheobaseError: a ``refusal``, if it is not YAML or a name is given twice.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split()) or type(error).__name__
        raise refusal(f"is not YAML: {said}", where=where, remedy="correct it there") from None


def read_yaml(path: Path, refusal: type[RheobaseError] = RecipeError) -> Any:
    """What a file says.

    Raises:
        RheobaseError: a ``refusal``, if it cannot be read, is not text or not YAML, or a name is given twice.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise refusal(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise refusal("is not a text file", where=str(path), remedy="give a YAML file") from None
    return parse_yaml(text, str(path), refusal)
