"""The command line: inspect, convert, train, evaluate, diagnose, cost, compare, export, demo; one file for each.

Answers go to stdout; with ``--json`` exactly one JSON document does. Everything else goes to stderr.
Exit codes: 0; 1 for an error or a refusal; 2 for an unknown option; 130 for Ctrl-C.

A command's module is imported when the command is called, because most of them take seconds to load PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rheobase.cli.behaviour import reported_errors
from rheobase.core import user_code
from rheobase.core.errors import RecipeError

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = {
    "inspect": "List what would become spiking, what is rewritten, and what is refused and why.",
    "convert": "Convert a trained network, save it, and measure it on test images if there are any.",
    "train": "Quantise a trained network's activations, train it for a few epochs, convert and save it.",
    "evaluate": "Measure a saved spiking network next to the analog network it came from.",
    "diagnose": "Take the error of every site of a saved spiking network apart.",
    "cost": "Count latency, operations and energy of a saved spiking network next to the analog network it came from.",
    "compare": "Compare methods on a trained network: every method, T and seed, in one report.",
    "export": "Write a saved spiking network as a NIR file, which other simulators read.",
    "demo": "Train a small network on handwritten digits, convert it, compare all methods: about a minute.",
}
"""Name of a command, which is also its module's and its function's, and the first line of the function's docstring."""

_SETTINGS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


class _Commands(TyperGroup):
    """Lists the commands without their modules; the one that is called is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and _imported(str(name)), rest


def _imported(name: str) -> Any:
    alone = typer.Typer(**_SETTINGS)
    alone.command(name)(getattr(import_module(f"rheobase.cli.{name}"), name))
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=_Commands,
    help="Turn a trained PyTorch network into a spiking network, and measure what was lost.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_SETTINGS,
)


def main() -> None:
    """Run the command line."""
    app(prog_name="rheobase")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rheobase {version('rheobase')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    imported: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import a module that registers parts or methods of your own."),
    ] = None,
) -> None:
    """Options that stand before any command."""
    with reported_errors():
        for module in imported or []:
            user_code.load(module, RecipeError)
