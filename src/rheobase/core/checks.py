"""Checks of arguments: whole numbers, positive numbers, fractions, and choices.

Each check raises an error of the class ``error`` that names the place and the valid values. NumPy's numbers are
accepted and returned as Python's. Booleans are refused as numbers.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard, get_args

from rheobase.core.errors import RecipeError, RheobaseError


def is_whole(value: object, least: int = 1, most: float = math.inf) -> bool:
    """True for an integer from ``least`` to ``most``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def is_number(value: object) -> TypeGuard[float]:
    """True for a real number, including infinity and NaN."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole(
    value: Any, where: str, *, least: int = 1, most: int | None = None, error: type[RheobaseError] = RecipeError
) -> int:
    """Return a whole number from ``least`` to ``most`` as an ``int``.

    Example:
        >>> check_whole(8, "timesteps")
        8
    """
    if not is_whole(value, least, math.inf if most is None else most):
        limits = f"from {least}" if most is None else f"from {least} to {most}"
        raise error(f"is {value!r}", where=where, remedy=f"use a whole number {limits}")
    return int(value)


def check_positive(value: Any, where: str, *, error: type[RheobaseError] = RecipeError) -> float:
    """Return a finite number above 0 as a ``float``."""
    if not is_number(value) or not 0 < value < math.inf:
        raise error(f"is {value!r}", where=where, remedy="use a positive number")
    return float(value)


def check_fraction(
    value: Any, where: str, *, error: type[RheobaseError] = RecipeError, remedy: str = "use a number between 0 and 1"
) -> float:
    """Return a number above 0 and below 1 as a ``float``."""
    if not is_number(value) or not 0 < value < 1:
        raise error(f"is {value!r}", where=where, remedy=remedy)
    return float(value)


def check_choice(value: object, choices: Any, where: str, *, error: type[RheobaseError] = RecipeError) -> None:
    """Check that the value is one of the ``choices``, a ``Literal`` type or a collection of values."""
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        raise error(f"is {value!r}", where=where, remedy=f"use one of {', '.join(map(str, allowed))}")


def check_flag(value: object, where: str, *, error: type[RheobaseError] = RecipeError) -> None:
    """Refuse anything but True and False.

    Raises:
        RecipeError: (or the class ``error``) naming ``where``.
    """
    if not isinstance(value, bool):
        raise error.typed(f"is {value!r}", where=where, remedy="use True or False")
