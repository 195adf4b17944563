"""All errors that the library raises, each with a place, a reason and a remedy.

All but ``ResourceError`` are also ``ValueError``s; for a value of the wrong type, also ``TypeError``s.
"""

from __future__ import annotations

import functools
from typing import Any, Self, cast


class RheobaseError(Exception):
    """Base of all errors of the library; the message reads ``place: reason. Remedy: what to do.``

    Args:
        reason: what is wrong, as a clause ("has no activation that can spike").
        where: the node, site, file, field or option concerned.
        remedy: what to do, as an imperative.

    Example:
        >>> str(RheobaseError("has no spiking counterpart", where="features.3 (SiLU)", remedy="train with ReLU"))
        'features.3 (SiLU): has no spiking counterpart. Remedy: train with ReLU.'
    """

    def __init__(self, reason: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.reason, self.where, self.remedy = reason, where, remedy
        text = (f"{where}: {reason}" if where else reason).rstrip(".")
        super().__init__(f"{text}. Remedy: {remedy.rstrip('.')}." if remedy else f"{text}.")

    @classmethod
    def typed(cls, reason: str, *, where: str | None = None, remedy: str | None = None) -> Self:
        """The error for a value of the wrong type, which is also a ``TypeError``.

        Example:
            >>> isinstance(DataError.typed("is a str", where="images"), TypeError)
            True
        """
        return _with_type_error(cast(Any, cls))(reason, where=where, remedy=remedy)


@functools.cache
def _with_type_error(error: type[RheobaseError]) -> Any:
    return type(error.__name__, (error, TypeError), {"__module__": error.__module__, "__doc__": error.__doc__})


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class, to quote in another message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TraceError(RheobaseError, ValueError):
    """The network cannot be traced to a graph of affine segments and sites."""


class DataError(RheobaseError, ValueError):
    """Images, labels or a data file that do not fit the network or cannot be read."""


class ModelError(RheobaseError, ValueError):
    """A model or checkpoint that cannot be loaded, or with invalid values."""


class RecipeError(RheobaseError, ValueError):
    """A recipe or option with an unknown field, an invalid value, or incompatible fields."""


class StoreError(RheobaseError, ValueError):
    """A file or folder that cannot be read or written, is damaged, or was saved by another version."""


class CalibrationError(RheobaseError, ValueError):
    """A calibration pass that cannot run on this network or with this data."""


class TrainingError(RheobaseError, ValueError):
    """Invalid training settings, a run that diverged, or a checkpoint of another run."""


class ResourceError(RheobaseError, RuntimeError):
    """A computation for which memory runs out; the settings are valid on a larger device."""


class DivergedError(TrainingError):
    """A loss that is not finite, or a threshold that is not positive and finite, during training.

    ``problem`` is the reason, ``where`` the epoch and step, ``kept`` the folder with the last epoch before the failure.
    """

    def __init__(self, problem: str, *, where: str, kept: str | None = None, remedy: str | None = None) -> None:
        self.problem = problem
        reason = problem if kept is None else f"{problem}; the last good epoch is in {kept}"
        super().__init__(reason, where=where, remedy=remedy)


class RheobaseWarning(UserWarning):
    """A condition that does not stop the run but may change results or speed."""
