"""The folder of a comparison: its files, how an existing folder is opened, and its lock.

One process writes to a folder; workers send their results to it. The lock is a file that the operating system locks, so
that it is released when the process ends for any reason.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from rheobase.core.checks import check_choice
from rheobase.core.errors import RecipeError, StoreError
from rheobase.core.folders import check_writable, names_in, refuse_foreign

RESULTS_FILE = "results.jsonl"
LINE_START = b'{"format":"rheobase-comparison",'
"""Start of every line in the results file."""
REPORT_FILE = "report.html"
TRAINING_FOLDER = "training"
LOCK_FILE = ".lock"
TABLE_FILES = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex"}
PLOT_FILES = {
    "timesteps": "accuracy.svg",
    "latency": "latency.svg",
    "energy": "energy.svg",
    "early_exit": "early-exit.svg",
    "layers": "layers.svg",
}
_WRITTEN = {RESULTS_FILE, REPORT_FILE, *TABLE_FILES.values(), *PLOT_FILES.values()}

OnExisting = Literal["keep", "number", "overwrite"]


@contextmanager
def open_folder(folder: Path | None, on_existing: OnExisting) -> Iterator[Path | None]:
    """Open the folder for writing, create it if needed, and lock it.

    Raises:
        RecipeError: if ``on_existing`` is unknown, or given without a folder.
        StoreError: if the folder cannot be written or locked, holds other files, or is open in another process.
    """
    check_choice(on_existing, OnExisting, "on_existing")
    if folder is None:
        if on_existing != "keep":
            raise RecipeError(
                "has no effect without a folder", where="on_existing", remedy="give a folder, or leave it out"
            )
        yield None
        return
    numbered = on_existing == "number" and bool(names_in(folder, hidden=True))
    if numbered:
        folder = next(free for n in range(2, 10**6) if not (free := folder.with_name(f"{folder.name}-{n}")).exists())
    refuse_foreign(folder, {*_WRITTEN, TRAINING_FOLDER} if _is_comparison(folder) else (), "a comparison")
    check_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=not numbered)
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", where=str(folder), remedy="choose a folder you can write to"
        ) from error
    lock = _locked(folder)
    try:
        if on_existing == "overwrite":
            _empty(folder)
        yield folder
    finally:
        lock.release()


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StoreError(
            "is open in another process",
            where=str(folder),
            remedy="wait until it has ended, or choose another folder; for several processes give workers (--workers)",
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"cannot be locked ({reason})", where=str(folder), remedy="choose a folder on a local disk"
        ) from error
    return lock


def _empty(folder: Path) -> None:
    try:
        for name in _WRITTEN:
            (folder / name).unlink(missing_ok=True)
        for path in (folder / TRAINING_FOLDER).glob("*"):
            if re.fullmatch("[0-9a-f]{12}", path.name):
                shutil.rmtree(path)
    except OSError as error:
        raise StoreError(
            f"cannot be emptied ({error.strerror})", where=str(folder), remedy="choose a folder you can write to"
        ) from error


def _is_comparison(folder: Path) -> bool:
    """True if rheobase has had the folder open, or its results were copied there; file names alone prove nothing."""
    with suppress(OSError):
        return (folder / LOCK_FILE).is_file() or (folder / RESULTS_FILE).read_bytes().startswith(LINE_START)
    return False
