"""The folder of a comparison: its files, how an existing folder is opened, and the locks of processes that share it.

Every lock is a file that the operating system locks, so that a lock is released when its process ends for any reason.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from filelock import FileLock, Timeout

from rheobase.core.checks import check_choice
from rheobase.core.errors import RecipeError, StoreError
from rheobase.core.folders import check_writable, names_in, refuse_foreign

RESULTS_FILE = "results.jsonl"
LINE_START = b'{"format":"rheobase-comparison",'
"""Start of every line in the results file."""
REPORT_FILE = "report.html"
TRAINING_FOLDER = "training"
LOCKS_FOLDER = ".locks"
TABLE_FILES = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex"}
PLOT_FILES = {
    "timesteps": "accuracy.svg",
    "latency": "latency.svg",
    "energy": "energy.svg",
    "early_exit": "early-exit.svg",
}
_WRITTEN = {RESULTS_FILE, REPORT_FILE, *TABLE_FILES.values(), *PLOT_FILES.values()}
_WRITING = "writing"

OnExisting = Literal["keep", "number", "overwrite"]


@dataclass(frozen=True)
class Shared:
    """A folder that other processes may have open too; without a path, results are in memory and every lock is free."""

    path: Path | None

    @contextmanager
    def hold(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock and yield True; if another process has it, wait for it, or yield False without ``wait``."""
        if self.path is None:
            yield True
            return
        lock = FileLock(self.path / LOCKS_FOLDER / name)
        try:
            with suppress(Timeout):
                lock.acquire(blocking=wait)
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(
                f"cannot be locked ({reason})", where=str(self.path), remedy="choose a folder on a local disk"
            ) from error
        try:
            yield lock.is_locked
        finally:
            lock.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock for writing results or reports, and for opening or closing the folder."""
        with self.hold(_WRITING):
            yield

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        """Mark the folder as open; the last process to close it deletes the locks."""
        try:
            with self.hold(f"open-{uuid4().hex}"):
                yield
        finally:
            with self.writing():
                if not self.in_use(folder):
                    for path in (folder / LOCKS_FOLDER).iterdir():
                        if path.name != _WRITING:
                            path.unlink()

    def in_use(self, folder: Path) -> bool:
        """True if another process has the folder open; call it while :meth:`writing`, so that it stays valid."""
        for path in (folder / LOCKS_FOLDER).glob("open-*"):
            with self.hold(path.name, wait=False) as free:
                if not free:
                    return True
        return False


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
    refuse_foreign(folder, {*_WRITTEN, TRAINING_FOLDER} if _is_comparison(folder) else (), "a comparison")
    check_writable(folder)
    shared = Shared(folder)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=not numbered)
            with shared.writing():
                if on_existing == "overwrite":
                    _empty(shared, folder)
                stack.enter_context(shared.opened(folder))
        except OSError as error:
            raise StoreError(
                f"cannot be written ({error.strerror})", where=str(folder), remedy="choose a folder you can write to"
            ) from error
        yield shared


def _empty(shared: Shared, folder: Path) -> None:
    """Delete a comparison that no process has open."""
    if shared.in_use(folder):
        raise StoreError(
            "is open in another process, whose results would be lost",
            where=str(folder),
            remedy="wait until that process has ended, or choose another folder",
        )
    for name in _WRITTEN:
        (folder / name).unlink(missing_ok=True)
    for path in (folder / TRAINING_FOLDER).glob("*"):
        if re.fullmatch("[0-9a-f]{12}", path.name):
            shutil.rmtree(path)


def _is_comparison(folder: Path) -> bool:
    """True if rheobase has had the folder open, or its results were copied there; file names alone prove nothing."""
    with suppress(OSError):
        return (folder / LOCKS_FOLDER).is_dir() or (folder / RESULTS_FILE).read_bytes().startswith(LINE_START)
    return False
