"""The command line: inspect, convert, train, evaluate, diagnose, cost, compare, export, demo; one file for each.

Answers go to stdout; with ``--json`` exactly one JSON document does. Everything else goes to stderr.
Exit codes: 0; 1 for an error or a refusal; 2 for an unknown option; 130 for Ctrl-C.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from rheobase.cli import compare, convert, cost, demo, diagnose, evaluate, export, inspect, train
from rheobase.cli.behaviour import command
from rheobase.core import user_code as _imports
from rheobase.core.errors import RecipeError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Turn a trained PyTorch network into a spiking network, and measure what was lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app(prog_name="rheobase")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rheobase {version('rheobase')}")
        raise typer.Exit


@app.callback()
@command
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    imported: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import a module that registers parts or methods of your own."),
    ] = None,
) -> None:
    """Options that stand before any command."""
    for module in imported or []:
        _imports.load(module, RecipeError)


_COMMANDS = (
    inspect.inspect,
    convert.convert,
    train.train,
    evaluate.evaluate,
    diagnose.diagnose,
    cost.cost,
    compare.compare,
    export.export,
    demo.demo,
)
for _command in _COMMANDS:
    app.command()(_command)
