"""How every command behaves: options, answers, notes, errors, warnings, exit codes."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from rheobase.core.errors import RheobaseError, RheobaseWarning
from rheobase.core.results import plain_values

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        document: for ``--json``; results and dataclasses in it are printed as plain values.
        show: prints it for people.
        code: exit code.
    """

    document: dict[str, Any]
    show: Callable[[Console], None]
    code: int = 0


def command(function: Callable[..., Answer | None]) -> Callable[..., None]:
    """The function as typer calls it: it returns an answer, which is printed, or None.

    A parameter whose type is a dataclass takes several options: one for each field. ``--json`` is added to all.
    """
    hints = get_type_hints(function, include_extras=True)
    options: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            options += _options_of(hints[name])
        else:
            options.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
    options.append(inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, annotation=Json, default=False))

    @functools.wraps(function)
    def run(*, as_json: bool, **given: Any) -> None:
        with reported_errors():
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


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(group)
    ]


def _print(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plain_values(answer.document), indent=2, allow_nan=False))
        return
    # Piped tables are for files and scripts: rich's 80 columns would break them.
    width = None if sys.stdout.isatty() else 160
    answer.show(Console(file=sys.stdout, markup=False, highlight=False, width=width))


@contextmanager
def reported_errors() -> Iterator[None]:
    """Errors as one sentence and exit code 1, warnings as one line, Ctrl-C as exit code 130."""
    try:
        with _warnings_in_one_line():
            yield
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
