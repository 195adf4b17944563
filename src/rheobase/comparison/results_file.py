"""The results file of a comparison: one line of JSON for each cell.

Every line contains its inputs: recipe, seed, versions, hashes of network and data. A comparison can therefore continue
after a kill, and lines from other data are recognised.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rheobase.comparison.cells import Cell, Identity
from rheobase.comparison.folder import LINE_START, RESULTS_FILE
from rheobase.comparison.shared import Shared
from rheobase.core.errors import StoreError


class Results:
    """The cells of a comparison so far; in a folder, every new cell is written before the next one starts.

    Other processes may append lines at any time. Lines are read without a lock, up to the last line break, and written
    with a lock. Under the lock an incomplete last line is known to be left from a killed process, and is removed.

    Args:
        shared: the folder.
        identity: inputs that all cells must have.

    Raises:
        StoreError: here and later, if the file cannot be read, is damaged before its last line, or holds results of
            another comparison.
    """

    def __init__(self, shared: Shared, identity: Identity) -> None:
        self.shared, self.identity = shared, identity
        self.path = None if shared.path is None else shared.path / RESULTS_FILE
        self.cells: dict[str, Cell] = {}
        self._lines = self._end = 0  # number of lines that were read, and the position of their end
        self._read_on()

    def find(self, key: str) -> Cell | None:
        """Return a cell; None if it is missing or failed, so that it is tried again."""
        self._read_on()
        found = self.cells.get(key)
        return None if found is None or found.status == "failed" else found

    def add(self, cell: Cell) -> None:
        """Store a cell.

        Raises:
            StoreError: if the cell cannot be written.
        """
        if self.path is None:
            self.cells[cell.key] = cell
            return
        with self.shared.writing():
            self._read_on()
            try:
                self._check_end()
                with self.path.open("ab") as file:
                    file.truncate(self._end)
                    file.write(cell.model_dump_json().encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise StoreError(
                    f"cannot be written ({error.strerror})", where=str(self.path), remedy="free space on the disk"
                ) from error
            self._read_on()

    def _check_end(self) -> None:
        """Check that the text after the last complete line, which will be removed, is the start of a result."""
        assert self.path is not None
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            rest = file.read(len(LINE_START))
        if not LINE_START.startswith(rest):
            raise StoreError(
                "ends in text that is not a result and would be removed",
                where=str(self.path),
                remedy="choose another folder",
            )

    def _read_on(self) -> None:
        """Read the lines that were appended since the last call."""
        if self.path is None:
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._end:
            raise StoreError("has lost lines while it was open", where=str(self.path), remedy="repeat the command")
        if size == self._end:
            return
        for line in _whole_lines(self.path, self._end):
            cell = _parse(line, f"{self.path} line {self._lines + 1}")
            check_same(cell.identity, self.identity, self.path)
            self.cells[cell.key] = cell  # the latest attempt counts
            self._lines += 1
            self._end += len(line)


def read(path: Path) -> list[Cell]:
    """Read the cells of a file, without an incomplete last line.

    Raises:
        StoreError: if the file cannot be read or a line is damaged.
    """
    return [_parse(line, f"{path} line {number}") for number, line in enumerate(_whole_lines(path, 0), 1)]


def _whole_lines(path: Path, start: int) -> list[bytes]:
    """Complete lines from a position on, with their line breaks."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except OSError as error:
        raise StoreError(
            f"cannot be read ({error.strerror})", where=str(path), remedy="check its permissions"
        ) from error
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def _parse(line: bytes, where: str) -> Cell:
    try:
        return Cell.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = "not JSON" if first["type"] == "json_invalid" else first["msg"].removeprefix("Value error, ")
        raise StoreError(
            f"is not a result of this version of rheobase ({f'{place}: ' if place else ''}{problem})",
            where=where,
            remedy="delete this line (only its conversion is measured again), or choose another folder",
        ) from None


def check_same(found: Identity, wanted: Identity, path: Path) -> None:
    """Refuse to mix results of different inputs.

    Raises:
        StoreError: if the inputs differ; the message names the differences.
    """
    differences = _differences(found.model_dump(), wanted.model_dump())
    if differences:
        raise StoreError(
            f"holds results of another comparison: {'; '.join(differences[:5])}",
            where=str(path),
            remedy='choose another folder, or start again with --overwrite (on_existing="overwrite")',
        )


_NAMES = {
    "model_sha256": "the network",
    "calibration_sha256": "the calibration images",
    "test_sha256": "the test images",
    "validation_sha256": "the validation images",
    "max_pool": "max_pool",
    "num_calibration_images": "the number of calibration images",
    "energy_images": "energy_images",
}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    lines = []
    for name in sorted({*found["versions"], *wanted["versions"]}):
        was, now = found["versions"].get(name), wanted["versions"].get(name)
        if was != now:
            lines.append(f"{name} was {was} and is now {now}")
    for name, words in _NAMES.items():
        was, now = found[name], wanted[name]
        if was != now:
            lines.append(f"{words}: {_short(was)} then, {_short(now)} now")
    return lines


def _short(value: object) -> str:
    return "none" if value is None else str(value)[:12]
