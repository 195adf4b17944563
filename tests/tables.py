"""Tables as text, without what only aligns them."""

from __future__ import annotations

import re


def unpadded(table: str) -> str:
    """Runs of spaces and of dashes as one."""
    return re.sub(r"([ -])\1+", r"\1", table)
