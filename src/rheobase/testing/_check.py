"""Assertion of the conformance tests."""

from __future__ import annotations


def expect(holds: bool, otherwise: str) -> None:
    """Assert a condition, also under ``python -O``, which drops assert statements.

    Raises:
        AssertionError: with the message ``otherwise``, if the condition is false.
    """
    if not holds:
        raise AssertionError(otherwise)
