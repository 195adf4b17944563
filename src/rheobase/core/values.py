"""Frozen values that are checked when they are made: recipes and their parts, settings, tables of costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rheobase.core.errors import RecipeError, RheobaseError


class Value(BaseModel):
    """Frozen, serialisable, equal to another with equal fields; an unknown or impossible field is an error.

    A value inside another reports its own fields: ``thresholds: unknown field 'percent'``.

    Raises:
        RecipeError: (or what ``refusal`` says) naming every unknown or impossible field, and the fields there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: ClassVar[str | None] = None
    """What errors call it; None: its kind, else its class."""
    refusal: ClassVar[type[RheobaseError]] = RecipeError

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
        """The value that plain values say, with the library's errors in place of pydantic's."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise cls._explained(error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise self.refusal(
            "cannot be changed", where=f"{type(self).__name__}.{name}", remedy=f"use .replace({name}=...), a new value"
        )

    def replace(self, **fields: Any) -> Self:
        """The same value with other fields, checked like a new one.

        Raises:
            RecipeError: (or what ``refusal`` says) as when it is made.
        """
        return type(self)(**{**dict(self), **fields})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As :meth:`replace`; pydantic's own does not check what it is given."""
        return self.replace(**(update or {}))


def explained(
    error: ValidationError, where: str, known: Iterable[str], refusal: type[RheobaseError] = RecipeError
) -> RheobaseError:
    """What pydantic found, as one error of ours."""
    problems: dict[str, str] = {}
    for item in error.errors():
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, RheobaseError):  # a value inside this one said what is wrong with it
            return inner
        if item["type"] == "default_factory_not_called":
            continue  # the field that its default is made from is wrong, and reported
        # a value that fits none of several types is reported for each; the place is the same, and the first says enough
        place = ".".join(str(part) for part in item["loc"] if "constrained" not in str(part))
        said = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            problem = f"unknown field '{place}'"
        elif not place:  # fields that do not go together: the message names them
            problem = said
        else:
            got = "" if item["type"].startswith("missing") else f" (got {item['input']!r})"
            problem = f"{place}: {said[:1].lower()}{said[1:]}{got}"
        problems.setdefault(place, problem)
    return refusal("; ".join(problems.values()), where=where, remedy=f"known fields: {', '.join(known)}")
