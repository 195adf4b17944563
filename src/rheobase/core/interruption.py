"""Ctrl-C on the command line: one sentence and exit code 130, at any moment.

This module imports nothing that takes time, because it is loaded before everything else.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CODE = 130
_happened: list[bool] = []
"""Not empty after Ctrl-C in a command."""


def handle() -> None:
    """Handle Ctrl-C from now on; the outputs of a command are complete or absent, so nothing needs to be closed.

    While packages are imported, Python would print a traceback, and packages would report another error.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in background jobs
        signal.signal(signal.SIGINT, _leave)
        sys.unraisablehook = _unraisable(sys.unraisablehook)
        atexit.register(_keep_code)  # the first to be registered runs last


def sentence(resumes: bool) -> str:
    """The line after Ctrl-C; ``resumes`` if the command continues from what is finished."""
    again = "continue; what is finished is kept" if resumes else "start again"
    return f"Interrupted. Repeat the command to {again}.\n"


@contextmanager
def raising() -> Iterator[Callable[[], bool]]:
    """Within the context Ctrl-C raises KeyboardInterrupt, so that temporary files are removed.

    Yields a function that returns True after Ctrl-C, because libraries wrap the exception into their own. A second
    Ctrl-C ends the process at once.
    """

    def stop(*_: Any) -> None:
        if _happened or not is_first():
            return _leave()
        _happened.append(True)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is _leave:
        signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: bool(_happened)
    finally:
        if before is _leave:
            signal.signal(signal.SIGINT, before)


def is_first() -> bool:
    """False in all but the first process of a distributed run.

    Ctrl-C reaches every process. The others continue until the first one is gone, and then fail without a word: if they
    left at once, the first would wait for them, or be killed by Lightning.
    """
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _leave(*_: Any) -> None:
    if not is_first():
        _happened.append(True)
        return
    os.write(2, b"Interrupted. Repeat the command.\n")  # print may be in use
    os._exit(CODE)


def _keep_code() -> None:
    """Exit with the code of Ctrl-C: Python would kill the process again if a library has seen the exception."""
    if _happened:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CODE)


def _unraisable(others: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Leave at Ctrl-C within a destructor or a callback of a library, which could not raise it."""

    def hook(found: Any) -> Any:
        if issubclass(found.exc_type, KeyboardInterrupt):
            return _leave()
        return others(found)

    return hook
