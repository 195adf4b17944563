"""The results file of a comparison: one line of JSON for each cell.

Every line contains its inputs: recipe, seed, versions, hashes of network and data. A comparison can therefore continue
after a kill, and lines from other data are recognised.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from rheobase.comparison.cells import Cell, Identity
from rheobase.comparison.folder import LINE_START, RESULTS_FILE
from rheobase.core.errors import StoreError
from rheobase.core.lines import append_line, split_lines


class Results:
    """The cells of a comparison so far; in a folder, every new cell is written at once.

    An incomplete last line is left from a killed process, and is removed.

    Args:
        folder: folder of the comparison, which this process has locked; None: the cells are in memory only.
        identity: what all cells share.

    Raises:
        StoreError: here and later, if the file cannot be read or written, is damaged before its last line, ends in text
            that is not a result, or holds results of another comparison.
    """

    def __init__(self, folder: Path | None, identity: Identity) -> None:
        self.path = None if folder is None else folder / RESULTS_FILE
        self.cells: dict[str, Cell] = {}
        self._end = 0
        if self.path is None or not self.path.exists():
            return
        lines, rest = split_lines(_content(self.path))
        if not LINE_START.startswith(rest[: len(LINE_START)]):
            raise StoreError(
                "ends in text that is not a result and would be removed",
                where=str(self.path),
                remedy="choose another folder",
            )
        for number, line in enumerate(lines, 1):
            cell = _parse(line, f"{self.path} line {number}")
            _check_same(cell.identity, identity, self.path)
            self.cells[cell.key] = cell  # the latest attempt counts
            self._end += len(line) + 1

    def find(self, key: str) -> Cell | None:
        """Return a cell; None if it is missing or failed, so that it is tried again."""
        found = self.cells.get(key)
        return None if found is None or found.status == "failed" else found

    def add(self, cell: Cell) -> None:
        """Store a cell."""
        self.cells[cell.key] = cell
        if self.path is None:
            return
        line = cell.model_dump_json().encode()
        try:
            if (self.path.stat().st_size if self.path.exists() else 0) < self._end:
                raise StoreError("has lost lines while it was open", where=str(self.path), remedy="run again")
            append_line(self.path, line)
        except OSError as error:
            raise StoreError(
                f"cannot be written ({error.strerror})", where=str(self.path), remedy="free space on the disk"
            ) from error
        self._end += len(line) + 1


def read(path: Path) -> list[Cell]:
    """Read the cells of a file, without an incomplete last line; refuse a damaged line."""
    lines, _ = split_lines(_content(path))
    return [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"cannot be read ({error.strerror})", where=str(path), remedy="check its permissions"
        ) from error


def _parse(line: bytes, where: str) -> Cell:
    try:
        return Cell.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise StoreError(
            f"is not a result of this version of rheobase ({problem})",
            where=where,
            remedy="delete this line (only its conversion is measured again), or choose another folder",
        ) from None


def _check_same(found: Identity, wanted: Identity, path: Path) -> None:
    """Refuse to mix results of different inputs; the message names the differences."""
    then, now = found.described(), wanted.described()
    differences = [
        f"{name}: {then.get(name)} then, {now.get(name)} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise StoreError(
            f"holds results of another comparison: {'; '.join(differences[:5])}",
            where=str(path),
            remedy='choose another folder, or start again with --overwrite (on_existing="overwrite")',
        )
