"""How the conformance tests say what does not hold."""

from __future__ import annotations


def expect(holds: bool, otherwise: str) -> None:
    """See that something holds; not an assert statement, which ``python -O`` would drop.

    Raises:
        AssertionError: saying what is wrong.
    """
    if not holds:
        raise AssertionError(otherwise)
