"""What the settings of training have in common: frozen values whose errors say which fields there are."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ValidationError

from rheobase.calibrate.passes import Part
from rheobase.errors import TrainingError


class Settings(Part):
    """A frozen value; an unknown or impossible field is a TrainingError."""

    place: ClassVar[str]

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            known = ", ".join(type(self).model_fields)
            problems = "; ".join(_problem(dict(item)) for item in error.errors())
            raise TrainingError(problems, where=self.place, remedy=f"known fields: {known}") from None


def _problem(item: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown field '{place}'"
    message = item["msg"].removeprefix("Value error, ")
    if not place:  # fields that do not go together: the message names them
        return message
    got = "" if item["type"] == "missing" else f" (got {item['input']!r})"
    return f"{place}: {message[:1].lower()}{message[1:]}{got}"
