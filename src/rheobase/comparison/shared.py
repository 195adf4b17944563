"""Locks for several processes that share one folder.

Every lock is a file that the operating system locks, so that a lock is released when its process ends for any reason.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rheobase.core.errors import StoreError

LOCKS_FOLDER = ".locks"
WRITING = "writing"


class Shared:
    """A folder that other processes may have open too.

    Args:
        path: the folder; None for results in memory, for which every lock is free.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @contextmanager
    def hold(self, lock: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock and yield True; if another process has it, wait for it, or yield False without ``wait``.

        Raises:
            StoreError: if the file system has no locks, or the folder cannot be written.
        """
        if self.path is None:
            yield True
            return
        file = FileLock(self.path / LOCKS_FOLDER / lock)
        acquired = True
        try:
            file.acquire(blocking=wait)
        except Timeout:
            acquired = False
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(
                f"cannot be locked ({reason})", where=str(self.path), remedy="choose a folder on a local disk"
            ) from error
        try:
            yield acquired
        finally:
            file.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock for writing results or reports, and for opening or closing the folder."""
        with self.hold(WRITING):
            yield

    @property
    def in_use(self) -> bool:
        """True if another process has the folder open; call it while :meth:`writing`, so that it stays valid."""
        for path in self._locks.glob("open-*"):
            with self.hold(path.name, wait=False) as free:
                if not free:
                    return True
        return False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Mark the folder as open; enter while :meth:`writing`."""
        if self.path is None:
            yield
            return
        name = f"open-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            with self.hold(name):
                yield
        finally:
            with self.writing():
                (self._locks / name).unlink(missing_ok=True)
                if not self.in_use:  # so that this is the only lock
                    for path in self._locks.iterdir():
                        if path.name != WRITING:
                            path.unlink()

    @property
    def _locks(self) -> Path:
        assert self.path is not None
        return self.path / LOCKS_FOLDER
