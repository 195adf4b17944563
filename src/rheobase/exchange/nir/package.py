"""The package ``nir``, which is an extra."""

from __future__ import annotations

from typing import Any, Literal

from rheobase.core.checks import check_choice
from rheobase.core.errors import StoreError

Reset = Literal["value", "subtract"]
"""How the simulator of a file resets its IF neurons: to a value, as NIR's definition says, or by subtraction of θ."""


def require_nir() -> Any:
    """The package.

    Raises:
        StoreError: if it is not installed.
    """
    try:
        import nir
    except ImportError as cause:
        raise StoreError(
            f"the package to read and write them with is missing ({cause})",
            where="NIR files",
            remedy="pip install 'rheobase[nir]'",
        ) from cause
    return nir


def check_reset(reset: str) -> None:
    """Refuse an unknown reading.

    Raises:
        StoreError: if it is one.
    """
    check_choice(reset, ("value", "subtract"), "reset", error=StoreError)
