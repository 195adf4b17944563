"""Behaviour common to all commands: options, results, notes, errors, warnings, exit codes."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from rheobase.core import interruption
from rheobase.core.errors import RheobaseError, RheobaseWarning
from rheobase.core.folders import user_path
from rheobase.core.results import plain_values

RESUMING = ("train", "compare")
"""Commands that continue from what is finished when they are repeated."""
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]


@dataclass(frozen=True)
class Answer:
    """Result of a command: a document for ``--json``, a function that prints it as text, and the exit code.

    Results and dataclasses in the document are converted to plain values.
    """

    document: dict[str, Any]
    show: Callable[[Console], None]
    code: int = 0


def command(function: Callable[..., Answer | None]) -> Callable[..., None]:
    """Wrap a function for typer: print the :class:`Answer` that it returns, if any.

    A parameter whose type is a dataclass becomes one option for each field. ``--json`` is added.
    """
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []

    def add(name: str, annotation: Any, default: Any) -> None:
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default))

    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            of_fields = get_type_hints(groups[name], include_extras=True)
            for field in fields(groups[name]):
                add(field.name, of_fields[field.name], field.default)  # no field is required
        else:
            add(name, hints[name], parameter.default)
    add("as_json", Json, False)

    @functools.wraps(function)
    def run(*, as_json: bool, **given: Any) -> None:
        with reported_errors(resumes=function.__name__ in RESUMING):
            for name, value in given.items():
                if isinstance(value, Path):
                    given[name] = user_path(value)
            for name, group in groups.items():
                given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
            with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a user's function may print
                answer = function(**given)
            if answer is not None:
                _print(answer, as_json)
        if answer is not None and answer.code:
            raise typer.Exit(answer.code)

    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _print(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plain_values(answer.document), indent=2, allow_nan=False))
        return
    # Piped tables are read by scripts: rich's default of 80 columns would wrap them.
    width = None if sys.stdout.isatty() else 200
    answer.show(Console(file=sys.stdout, markup=False, highlight=False, width=width))


@contextmanager
def reported_errors(*, resumes: bool = False) -> Iterator[None]:
    """Print errors (exit code 1) and warnings in one line each; exit with code 130 after Ctrl-C.

    Args:
        resumes: True for a command that continues from what is finished.
    """
    plain = warnings.showwarning

    def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
        if issubclass(category, RheobaseWarning):
            note(f"Warning: {message}")
        else:
            plain(message, category, *place, **more)

    with interruption.raising() as interrupted:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default", RheobaseWarning)
                warnings.showwarning = show
                yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or interrupted():
                if interruption.is_first():
                    note(interruption.sentence(resumes).strip())
                raise typer.Exit(interruption.CODE) from None
            if isinstance(error, RheobaseError):
                note(f"Error: {error}")
            elif isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                note(f"Error: {error.filename or 'output'}: {error.strerror or error}.")
            else:  # also the end of the reader of stdout, which typer handles
                raise
            raise typer.Exit(1) from None


def note(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr)


def show_progress() -> bool:
    """True if stderr is a terminal."""
    return sys.stderr.isatty()
