"""How every command behaves: answers, notes, errors, warnings, exit codes."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from rheobase.core.errors import RheobaseError, RheobaseWarning

P = ParamSpec("P")
R = TypeVar("R")


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Errors as one sentence and exit code 1, warnings as one line, Ctrl-C as exit code 130."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        quiet = redirect_stdout(sys.stderr) if kwargs.get("as_json") else nullcontext()
        stream = sys.stdout
        try:
            with _warnings_in_one_line(), quiet, _answering_on(stream):
                return function(*args, **kwargs)
        except RheobaseError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise  # typer's own business: the reader of our output has gone
        except OSError as error:
            print(f"Error: {error.filename or 'output'}: {error.strerror or error}.", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


_answer_stream: list[Any] = []


@contextmanager
def _answering_on(stream: Any) -> Iterator[None]:
    # A user's function may print; with --json that goes to stderr, and only the answer to stdout.
    _answer_stream.append(stream)
    try:
        yield
    finally:
        _answer_stream.pop()


def answer(document: dict[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """Print the command's answer: the JSON document, or what ``show`` prints."""
    stream = _answer_stream[-1]
    if as_json:
        print(json.dumps(document, indent=2), file=stream)
        return
    # Piped tables are for files and scripts: rich's 80 columns would break them.
    show(Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else 160))


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        plain = warnings.showwarning
        warnings.simplefilter("default", RheobaseWarning)

        def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if issubclass(category, RheobaseWarning):
                print(f"Warning: {message}", file=sys.stderr)
            else:
                plain(message, category, *place, **more)

        warnings.showwarning = show
        yield


def note(text: str) -> None:
    """Tell the user something that is not the answer."""
    print(text, file=sys.stderr)


def show_progress() -> bool:
    """Whether somebody is watching."""
    return sys.stderr.isatty()
