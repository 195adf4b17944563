"""Whole numbers, one for all sites or by site name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from rheobase.core.errors import RecipeError

Levels = Annotated[int, Field(ge=1, strict=True)]
BySite = Levels | dict[str, Levels]


def for_each_site(values: int | Mapping[str, int], names: Sequence[str], what: str) -> dict[str, int]:
    """The whole number of every site, in execution order.

    Raises:
        RecipeError: if a site has no value, or a name is not a site.
    """
    if isinstance(values, int):
        return dict.fromkeys(names, values)
    wrong = [f"no {what} for {name}" for name in names if name not in values]
    wrong += [f"{name} is not a site" for name in values if name not in names]
    if wrong:
        raise RecipeError("; ".join(wrong[:5]), where=what, remedy=f"the sites are {', '.join(names)}")
    return {name: values[name] for name in names}
