"""Frozen, validated values: the base of recipes and their parts, settings, and cost tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from rheobase.core.errors import RecipeError, RheobaseError


class Value(BaseModel):
    """A frozen, serialisable value with validated fields; values with equal fields are equal.

    A nested value reports its own fields: ``thresholds: unknown field 'percent'``.

    Raises:
        RecipeError: (or the class ``refusal``) if a field is unknown or invalid; lists the known fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    place: ClassVar[str | None] = None
    """Its name in errors; None: its ``kind``, else its class."""
    refusal: ClassVar[type[RheobaseError]] = RecipeError
    """Class of its errors."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise self._explained(error) from None

    @classmethod
    def _explained(cls, error: ValidationError) -> RheobaseError:
        kind = getattr(cls.model_fields.get("kind"), "default", None)
        where = cls.place or (kind if isinstance(kind, str) else cls.__name__)
        return explained(error, where, cls.model_fields, cls.refusal)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Build a value from plain values; raises the library's errors in place of pydantic's."""
        if isinstance(obj, dict):
            obj = {str(name): value for name, value in obj.items()}  # pydantic passes the names as keywords
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise cls._explained(error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would take True for 1."""
        if not allows(cls.model_fields[str(info.field_name)].annotation, value):
            raise ValueError("is a boolean")
        return value

    def __hash__(self) -> int:
        return hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))  # a field may be a dict

    def __setattr__(self, name: str, value: Any) -> None:
        where, remedy = f"{type(self).__name__}.{name}", f"make a new value with .replace({name}=...)"
        raise self.refusal("is read-only", where=where, remedy=remedy)

    def replace(self, **fields: Any) -> Self:
        """A new value with some fields changed, validated like any new value."""
        return type(self)(**{**dict(self), **fields})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same as :meth:`replace`; pydantic's own method does not validate fields."""
        return self.replace(**(update or {}))


def allows(annotation: Any, value: Any) -> bool:
    """False for a boolean, or a tuple or list with one, if the annotation has no booleans."""
    booleans = isinstance(value, bool) or (isinstance(value, tuple | list) and any(isinstance(v, bool) for v in value))
    return not booleans or bool in _types(annotation) or Any in _types(annotation)


def _types(annotation: Any) -> set[Any]:
    """All types within an annotation; those of literals too."""
    inner = get_args(annotation)
    return {annotation, *map(type, inner), *(found for part in inner for found in _types(part))}


def explained(
    error: ValidationError, where: str, known: Iterable[str], refusal: type[RheobaseError] = RecipeError
) -> RheobaseError:
    """Convert a pydantic error to one error of the library."""
    problems: dict[str, str] = {}
    remedies: dict[str, None] = {}  # in order, each once
    for item in error.errors():
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, RheobaseError):  # raised by a nested value
            return inner
        if item["type"] == "default_factory_not_called":
            continue  # its default depends on another field, which is invalid and reported
        # a value that fits none of several types is reported once for each; only the first report of a place is kept
        place = ".".join(str(part) for part in item["loc"] if "constrained" not in str(part))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            problem, remedy = f"unknown field '{place}'", f"use the known fields: {', '.join(known)}"
        elif not place and item["type"] == "value_error":  # incompatible fields: the message names them
            problem, remedy = message, "change the fields that it names"
        elif not place:  # no fields at all
            problem, remedy = message, f"use the known fields: {', '.join(known)}"
        else:
            missing = item["type"].startswith("missing")
            got, remedy = ("", f"give {place}") if missing else (f" (got {item['input']!r})", f"change {place}")
            problem = f"{place}: {message[:1].lower()}{message[1:]}{got}"
        if place not in problems:
            problems[place], remedies[remedy] = problem, None
    return refusal("; ".join(problems.values()), where=where, remedy="; ".join(remedies))
