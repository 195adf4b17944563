"""Read YAML files of the user: one document, without duplicate keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rheobase.core.errors import RecipeError, RheobaseError
from rheobase.core.folders import user_path


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, which YAML forbids; PyYAML alone would silently use the last one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    names: list[Any] = []
    for key in (key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"):
        name = loader.construct_object(key, deep=True)
        if name in names:
            raise yaml.MarkedYAMLError(problem=f"{name!r} is given twice", problem_mark=key.start_mark)
        names.append(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, where: str, refusal: type[RheobaseError] = RecipeError) -> Any:
    """The values in a YAML text; an error of class ``refusal`` if it is not YAML or has a duplicate key."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:  # ValueError: an invalid date
        message = " ".join(str(error).replace('in "<unicode string>", ', "").split()) or type(error).__name__
        raise refusal(f"is not YAML: {message}", where=where, remedy="correct it there") from None


def read_yaml(path: Path, refusal: type[RheobaseError] = RecipeError) -> Any:
    """The values in a YAML file, as :func:`parse_yaml` reads them; ``refusal`` also if it cannot be read."""
    try:
        path = user_path(path)
        text = path.read_text()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise refusal(reason, where=str(path), remedy="check the path and its permissions") from None
    except UnicodeDecodeError:
        raise refusal("is not a text file", where=str(path), remedy="pass a YAML file") from None
    return parse_yaml(text, str(path), refusal)
