"""The file of a comparison: one line of JSON for each cell.

Every line says by itself what it is a result of: recipe, seed, versions, hashes of network and data. So a file of lines
can be gone on with after a kill, and a line from other data is known by itself.
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
    """The cells found so far; in a folder, all that are in its file, and every new one is there before the next begins.

    Others may add lines to the file at any time. Lines are read without a lock, up to the last line's end; they are
    written with one, and only then is a line that a kill cut short known to be nobody's, and taken off.

    Args:
        shared: the folder.
        identity: what the cells must be results of.

    Raises:
        StoreError: here and later, if the file cannot be read, is damaged before its last line, or holds the results of
            something else.
    """

    def __init__(self, shared: Shared, identity: Identity) -> None:
        self.shared, self.identity = shared, identity
        self.path = None if shared.path is None else shared.path / RESULTS_FILE
        self.cells: dict[str, Cell] = {}
        self._lines = self._end = 0  # that have been read, and where they end
        self._read_on()

    def find(self, key: str) -> Cell | None:
        """The cell, unless it is worth another try."""
        self._read_on()
        found = self.cells.get(key)
        return None if found is None or found.status == "failed" else found

    def add(self, cell: Cell) -> None:
        """Keep a cell.

        Raises:
            StoreError: if it cannot be written.
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
                    f"cannot be written ({error.strerror})", where=str(self.path), remedy="free space there"
                ) from error
            self._read_on()

    def _check_end(self) -> None:
        """What follows the last whole line is to be cut off: see that it is the beginning of a line of ours."""
        assert self.path is not None
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            rest = file.read(len(LINE_START))
        if not LINE_START.startswith(rest):
            raise StoreError(
                "ends in something that is no result, and would be cut off",
                where=str(self.path),
                remedy="choose another folder",
            )

    def _read_on(self) -> None:
        """Take in the lines that were added since."""
        if self.path is None:
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._end:
            raise StoreError(
                "has lost lines while it was open", where=str(self.path), remedy="give the same command again"
            )
        if size == self._end:
            return
        for line in _whole_lines(self.path, self._end):
            cell = _parse(line, f"{self.path} line {self._lines + 1}")
            check_same(cell.identity, self.identity, self.path)
            self.cells[cell.key] = cell  # a later try counts
            self._lines += 1
            self._end += len(line)


def read(path: Path) -> list[Cell]:
    """The cells of a file; a last line that a kill cut short is left out.

    Raises:
        StoreError: if the file cannot be read or another line is damaged.
    """
    return [_parse(line, f"{path} line {number}") for number, line in enumerate(_whole_lines(path, 0), 1)]


def _whole_lines(path: Path, start: int) -> list[bytes]:
    """With their ends."""
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
        said = "not JSON" if first["type"] == "json_invalid" else first["msg"].removeprefix("Value error, ")
        raise StoreError(
            f"is no result of this version of rheobase ({f'{place}: ' if place else ''}{said})",
            where=where,
            remedy="delete that line: its conversion is measured again, the others stay; or choose another folder",
        ) from None


def check_same(found: Identity, wanted: Identity, path: Path) -> None:
    """Refuse to mix results.

    Raises:
        StoreError: naming what differs.
    """
    differences = _differences(found.model_dump(), wanted.model_dump())
    if differences:
        raise StoreError(
            f"holds results of something else: {'; '.join(differences[:5])}",
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
