"""Files to which a run appends a line for each result, so that it can continue after a kill."""

from __future__ import annotations

import os
from pathlib import Path


def split_lines(content: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines of a file, and the incomplete last one that a killed process left (empty if none)."""
    *lines, rest = content.split(b"\n")
    return lines, rest


def read_lines(path: Path) -> list[bytes]:
    """Read the complete lines of a file; none if the file does not exist."""
    return split_lines(path.read_bytes())[0] if path.exists() else []


def append_line(path: Path, line: bytes) -> None:
    """Append a line, on the disk when this returns; an incomplete last line is removed first."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
