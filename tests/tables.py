"""Tables as text, without what only aligns them; figures that are not empty."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image


def unpadded(table: str) -> str:
    """Runs of spaces and of dashes as one."""
    return re.sub(r"([ -])\1+", r"\1", table)


def drawn(path: Path) -> bool:
    with Image.open(path) as image:
        return image.width > 400 and len(image.convert("L").getcolors(256) or []) > 10
