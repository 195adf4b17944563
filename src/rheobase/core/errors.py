"""Every error the library raises: where it happened, why, and what to do about it.

They are ``ValueError``s too, and ``TypeError``s where a value has the wrong type: code that catches those works.
"""

from __future__ import annotations

import functools
from typing import Any, Self, cast


class RheobaseError(Exception):
    """One clear sentence: the place, the reason, the remedy.

    Args:
        reason: what is wrong, as a clause ("has no activation that can spike").
        where: the node, site, file, field or option concerned.
        remedy: what the user can do next.

    Example:
        >>> str(RheobaseError("has no spiking counterpart", where="features.3 (SiLU)", remedy="train with ReLU"))
        'features.3 (SiLU): has no spiking counterpart. Remedy: train with ReLU.'
    """

    def __init__(self, reason: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.reason, self.where, self.remedy = reason, where, remedy
        text = f"{where}: {reason}" if where else reason
        text = text.rstrip(".")
        if remedy:
            text += f". Remedy: {remedy.rstrip('.')}"
        super().__init__(text + ".")

    @classmethod
    def typed(cls, reason: str, *, where: str | None = None, remedy: str | None = None) -> Self:
        """The error for a value of the wrong type: a ``TypeError`` too.

        Example:
            >>> isinstance(DataError.typed("is a str", where="images"), TypeError)
            True
        """
        return _with_type_error(cast(Any, cls))(reason, where=where, remedy=remedy)


@functools.cache
def _with_type_error(error: type[RheobaseError]) -> Any:
    return type(error.__name__, (error, TypeError), {"__module__": error.__module__, "__doc__": error.__doc__})


class TraceError(RheobaseError, ValueError):
    """The network could not be turned into a graph of linear segments and activation sites."""


class DataError(RheobaseError, ValueError):
    """Images, labels or a data file that do not fit the network or cannot be read."""


class ModelError(RheobaseError, ValueError):
    """A model or checkpoint that cannot be loaded, or that holds values no network can use."""


class RecipeError(RheobaseError, ValueError):
    """A recipe with an unknown field, an impossible value, or parts that do not go together."""


class StoreError(RheobaseError, ValueError):
    """A saved network that cannot be written, is damaged, or was made by another version."""


class CalibrationError(RheobaseError, ValueError):
    """A calibration pass that cannot do its work on this network or with this data."""


class TrainingError(RheobaseError, ValueError):
    """Training settings that cannot work, a run that diverged, or a checkpoint that belongs to another run."""


class DivergedError(TrainingError):
    """A loss or a threshold that stopped being a finite, or a positive, number.

    Args:
        problem: what happened.
        where: the epoch and step.
        kept: the folder with the last epoch that went well.
        remedy: what the user can do next.
    """

    def __init__(self, problem: str, *, where: str, kept: str | None = None, remedy: str | None = None) -> None:
        self.problem = problem
        reason = problem if kept is None else f"{problem}; {kept} keeps the last epoch that went well"
        super().__init__(reason, where=where, remedy=remedy)


class RheobaseWarning(UserWarning):
    """Something harmless that the user should nevertheless know."""
