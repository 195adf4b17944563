"""The folder of a comparison: what lies in it, and what to do with one that exists."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from rheobase.comparison.shared import LOCKS_FOLDER, Shared
from rheobase.core.checks import check_choice
from rheobase.core.errors import RecipeError, StoreError

RESULTS_FILE = "results.jsonl"
LINE_START = b'{"format":"rheobase-comparison",'
"""Of every line in it."""
REPORT_FILE = "report.html"
TRAINING_FOLDER = "training"
TABLE_FILES = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex"}
PLOT_FILES = {"timesteps": "accuracy.svg", "latency": "latency.svg", "energy": "energy.svg"}
_OURS = {RESULTS_FILE, REPORT_FILE, TRAINING_FOLDER, *TABLE_FILES.values(), *PLOT_FILES.values()}

OnExisting = Literal["keep", "number", "overwrite"]


@contextmanager
def open_folder(folder: Path | None, on_existing: OnExisting) -> Iterator[Shared]:
    """Have the folder open to write in, made if need be; other processes may have it open too.

    Raises:
        RecipeError: if ``on_existing`` is unknown, or given without a folder.
        StoreError: if it cannot be written, holds something else than a comparison, or is to be overwritten while
            another process has it open.
    """
    check_choice(on_existing, OnExisting, "on_existing")
    if folder is None:
        if on_existing != "keep":
            raise RecipeError("has no effect without a folder", where="on_existing", remedy="name one, or leave it out")
        yield Shared(None)
        return
    held = _held(folder)
    if held and on_existing == "number":
        folder = next(free for n in range(2, 10**6) if not (free := folder.with_name(f"{folder.name}-{n}")).exists())
        held = set()
    mine = _OURS if _is_comparison(folder) else set()
    foreign = sorted(name for name in held - mine if not name.startswith("."))
    if foreign:
        raise StoreError(
            f"holds something else than a comparison ({foreign[0]})", where=str(folder), remedy="choose another folder"
        )
    shared = Shared(folder)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=on_existing != "number" or folder.exists())
            with tempfile.TemporaryFile(dir=folder):
                pass
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
    """Delete a comparison that nobody is at."""
    if shared.in_use:
        raise StoreError(
            "is open in another process, whose results would be lost",
            where=str(folder),
            remedy="wait until that has ended, or choose another folder",
        )
    for name in _held(folder) & _OURS - {TRAINING_FOLDER}:
        remove(folder / name)
    for path in (folder / TRAINING_FOLDER).glob("*"):
        if re.fullmatch("[0-9a-f]{12}", path.name):
            remove(path)


def _is_comparison(folder: Path) -> bool:
    """Whether rheobase has had the folder open, or its results were put there; names alone may be of anything."""
    results = folder / RESULTS_FILE
    try:
        if (folder / LOCKS_FOLDER).is_dir():
            return True
        with results.open("rb") as file:
            return file.read(len(LINE_START)) == LINE_START
    except OSError:
        return False


def write(folder: Path, files: dict[str, str]) -> None:
    """Write text files, each whole or not at all.

    Raises:
        StoreError: if the folder cannot be written.
    """
    for name, text in files.items():
        draft = folder / f".{name}.new"
        try:
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, folder / name)
        except OSError as error:
            draft.unlink(missing_ok=True)
            remedy = "move that folder away" if (folder / name).is_dir() else "free space there"
            raise StoreError(
                f"cannot be written ({error.strerror})", where=str(folder / name), remedy=remedy
            ) from error


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _held(folder: Path) -> set[str]:
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise StoreError("is a file, not a folder", where=str(folder), remedy="choose another folder")
    return {path.name for path in folder.iterdir()}
