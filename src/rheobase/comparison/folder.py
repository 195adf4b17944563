"""The folder of a comparison: its files, and how an existing folder is opened."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from rheobase.comparison.shared import LOCKS_FOLDER, Shared
from rheobase.core.checks import check_choice
from rheobase.core.errors import RecipeError, StoreError
from rheobase.core.folders import check_writable, names_in, refuse_foreign

RESULTS_FILE = "results.jsonl"
LINE_START = b'{"format":"rheobase-comparison",'
"""Start of every line in the results file."""
REPORT_FILE = "report.html"
TRAINING_FOLDER = "training"
TABLE_FILES = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex"}
PLOT_FILES = {"timesteps": "accuracy.svg", "latency": "latency.svg", "energy": "energy.svg"}
_FILES = {RESULTS_FILE, REPORT_FILE, TRAINING_FOLDER, *TABLE_FILES.values(), *PLOT_FILES.values()}

OnExisting = Literal["keep", "number", "overwrite"]


@contextmanager
def open_folder(folder: Path | None, on_existing: OnExisting) -> Iterator[Shared]:
    """Open the folder for writing, and create it if needed; other processes may have it open too.

    Raises:
        RecipeError: if ``on_existing`` is unknown, or given without a folder.
        StoreError: if the folder cannot be written or holds other files, or if it is to be overwritten while another
            process has it open.
    """
    check_choice(on_existing, OnExisting, "on_existing")
    if folder is None:
        if on_existing != "keep":
            raise RecipeError(
                "has no effect without a folder", where="on_existing", remedy="give a folder, or leave it out"
            )
        yield Shared(None)
        return
    numbered = on_existing == "number" and bool(names_in(folder, hidden=True))
    if numbered:
        folder = next(free for n in range(2, 10**6) if not (free := folder.with_name(f"{folder.name}-{n}")).exists())
    refuse_foreign(folder, _FILES if _is_comparison(folder) else (), "a comparison")
    check_writable(folder)
    shared = Shared(folder)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=not numbered)
            with shared.writing():
                if on_existing == "overwrite":
                    _empty(shared, folder)
                stack.enter_context(shared.opened())
        except OSError as error:
            raise StoreError(
                f"cannot be written ({error.strerror})", where=str(folder), remedy="choose a folder you can write to"
            ) from error
        yield shared


def _empty(shared: Shared, folder: Path) -> None:
    """Delete a comparison that no process has open."""
    if shared.in_use:
        raise StoreError(
            "is open in another process, whose results would be lost",
            where=str(folder),
            remedy="wait until that process has ended, or choose another folder",
        )
    for name in names_in(folder) & _FILES - {TRAINING_FOLDER}:
        remove(folder / name)
    for path in (folder / TRAINING_FOLDER).glob("*"):
        if re.fullmatch("[0-9a-f]{12}", path.name):
            remove(path)


def _is_comparison(folder: Path) -> bool:
    """True if rheobase has had the folder open, or its results were copied there; file names alone prove nothing."""
    results = folder / RESULTS_FILE
    try:
        if (folder / LOCKS_FOLDER).is_dir():
            return True
        with results.open("rb") as file:
            return file.read(len(LINE_START)) == LINE_START
    except OSError:
        return False


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
