"""The results of a comparison: one cell for each method, T and seed, one line of JSON for each cell.

Every line says by itself what it is a result of: recipe, seed, versions, hashes of network and data. So a file of lines
can be gone on with after a kill, and a line from other data is known by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rheobase.comparison.folder import LINE_START, RESULTS_FILE
from rheobase.comparison.shared import Shared
from rheobase.core.errors import StoreError

Share = Annotated[float, Field(ge=0, le=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Entry):
    """A converted network on a set of images.

    Attributes:
        images: how many.
        accuracy, agreement, logit_error, spike_rate: as in :class:`rheobase.evaluate.Row`; ``agreement`` and
            ``logit_error`` against the analog network it was converted from, which for a method with training is the
            trained, quantised one.
        ann_accuracy: of that analog network.
        energy_ratio: energy of the spiking network as a fraction of the analog network's (:func:`rheobase.energy`).
        picojoules, ann_picojoules: the two, per image.
        energy_images: on how many images the spikes were counted for it.
        not_counted: what there is but is not in the energy.
    """

    images: int
    accuracy: Share | None
    agreement: Share
    logit_error: float
    spike_rate: float
    ann_accuracy: Share | None
    energy_ratio: float
    picojoules: float
    ann_picojoules: float
    energy_images: int
    not_counted: tuple[str, ...]

    @model_validator(mode="after")
    def _both_accuracies_or_none(self) -> Measured:
        if (self.accuracy is None) != (self.ann_accuracy is None):
            raise ValueError("one network has an accuracy, the other has none")
        return self


class Delay(_Entry):
    """Time-steps until the answer (:func:`rheobase.latency`).

    Attributes:
        first: until the readout can answer for the first time.
        final: until the answer over all T steps is there; where layers wait for their whole input, a sum over these
            barriers.
        streaming: what it would be if no layer waited.
    """

    first: int
    final: int
    streaming: int


class Identity(_Entry):
    """What all cells of one comparison share; a file of other ones is refused.

    Attributes:
        versions: of what the numbers depend on.
        model_sha256: of the traced analog network.
        calibration_sha256, test_sha256, validation_sha256: of images and labels.
        max_pool: what max-pooling became.
        num_calibration_images: of each conversion, at most.
        energy_images: images to count spikes on for the energy, at most.
    """

    versions: dict[str, str]
    model_sha256: str
    calibration_sha256: str
    test_sha256: str
    validation_sha256: str | None
    max_pool: str
    num_calibration_images: int
    energy_images: int


class Cell(_Entry):
    """One conversion and what came of it.

    Attributes:
        method: its name in tables.
        timesteps: T.
        seed: of the choice of calibration images and of all that the method draws.
        recipe: as it was run, with this T.
        training: settings of the training, for a method that needs one.
        status: ``"done"``; ``"refused"``: the method cannot run on this network or at this T, and never will;
            ``"failed"``: an error that a further try may not meet.
        reason: why it was not done.
        test: on the test images.
        validation: on the validation images, where there are any.
        latency: time-steps until the answer.
        calibration_seconds: of the conversion.
        training_seconds: of all epochs.
        execution: ``"steps"`` for the simulation, ``"counts"`` for the closed form.
        notes: what the conversion said.
        finished: when, UTC.
        identity: what the cell is a result of.
    """

    format: Literal["rheobase-comparison"] = "rheobase-comparison"
    version: Literal[1] = 1
    method: str
    timesteps: int
    seed: int
    recipe: dict[str, Any]
    training: dict[str, Any] | None
    status: Literal["done", "refused", "failed"]
    reason: str | None = None
    test: Measured | None = None
    validation: Measured | None = None
    latency: Delay | None = None
    calibration_seconds: float | None = None
    training_seconds: float | None = None
    execution: Literal["steps", "counts"] | None = None
    notes: list[str] = []
    finished: str
    identity: Identity

    @model_validator(mode="after")
    def _has_what_its_status_says(self) -> Cell:
        if self.status != "done" and self.reason is None:
            raise ValueError(f"is {self.status} for no reason")
        if self.status == "done" and (self.test is None or self.latency is None):
            raise ValueError("is done and has no numbers")
        return self

    @property
    def key(self) -> str:
        """What was asked for; cells with the same key and identity have the same numbers."""
        return key(self.recipe, self.training, self.timesteps, self.seed)


def number(
    part: Literal["test", "validation", "latency"], name: str, scale: float = 1
) -> Callable[[Cell], float | None]:
    """A function of cells: ``scale`` times a number of a part, or None where it is not there."""

    def value(cell: Cell) -> float | None:
        found = getattr(getattr(cell, part), name, None)
        return None if found is None else scale * found

    return value


def key(recipe: dict[str, Any], training: dict[str, Any] | None, timesteps: int, seed: int) -> str:
    """A cell's question as text."""
    return json.dumps([recipe, training, timesteps, seed], sort_keys=True)


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
