"""The optional package ``nir``."""

from __future__ import annotations

from typing import Any, Literal

from rheobase.core.checks import check_choice
from rheobase.core.errors import StoreError

Reset = Literal["value", "subtract"]
"""Reset of IF nodes in a file's simulator: to a value, as NIR defines it, or by subtraction of θ."""


def require_nir() -> Any:
    """Import the package ``nir``.

    Raises:
        StoreError: if the package is not installed.
    """
    try:
        import nir
    except ImportError as cause:
        raise StoreError(
            f"is not installed ({cause})", where="package nir", remedy="run `pip install 'rheobase[nir]'`"
        ) from cause
    return nir


def check_reset(reset: str) -> None:
    """Check a value of ``reset``.

    Raises:
        StoreError: if the value is unknown.
    """
    check_choice(reset, ("value", "subtract"), "reset", error=StoreError)
