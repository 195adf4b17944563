"""The command line: inspect, convert, train, evaluate, diagnose, cost, compare, export, demo; one file for each.

Results are printed on stdout, with ``--json`` as exactly one JSON document; notes, warnings and errors on stderr.
Exit codes: 0; 1 for an error or a refusal; 2 for an unknown option; 130 for Ctrl-C.

A command's module is imported only when the command is called, because loading PyTorch takes seconds.
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

__all__ = ["COMMANDS", "app"]

COMMANDS = {
    "inspect": "List the sites of a network, its rewrites, and its refusals with their remedies.",
    "convert": "Convert a trained network, save it, and evaluate it if test images are given.",
    "train": "Quantise a trained network's activations, train it for a few epochs, convert and save it.",
    "evaluate": "Compare a saved spiking network with its analog network on test images.",
    "diagnose": "Decompose the error of every site of a saved spiking network into its causes.",
    "cost": "Count latency, operations, energy and memory traffic of a saved spiking network and its analog one.",
    "compare": "Compare methods on a trained network: every method, T and seed, in one report.",
    "export": "Write a saved spiking network for other simulators and chips.",
    "demo": "Train a small network on handwritten digits, convert it, compare all methods: a minute or two.",
}
"""Command -> first line of its docstring. Module and function have the command's name."""

_SETTINGS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


class _Commands(TyperGroup):
    """Lists the commands without importing their modules; imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)  # reports an unknown command
        alone = typer.Typer(**_SETTINGS)
        alone.command(name)(getattr(import_module(f"rheobase.cli.{name}"), str(name)))
        return name, typer.main.get_command(alone), rest


app = typer.Typer(
    cls=_Commands,
    help="Convert a trained PyTorch network to a spiking network, and measure its accuracy, error and energy.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_SETTINGS,
)


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
        typer.Option(
            "--import", metavar="MODULE", help="Import a module that registers your own neurons, passes or methods."
        ),
    ] = None,
) -> None:
    """Options before the command."""
    with reported_errors():
        for module in imported or []:
            user_code.load(module, RecipeError)
