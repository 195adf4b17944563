"""``rheobase demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rheobase.cli.behaviour import answer, command, show_progress
from rheobase.comparison.folder import REPORT_FILE


@command
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("rheobase-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demonstration.")] = False,
) -> None:
    """Train a small network on handwritten digits, convert and evaluate it, compare all methods: a minute or so."""
    from rheobase.cli.demonstration import COMPARISON, run_demo

    found = run_demo(out, overwrite=overwrite, progress=show_progress())

    def show(console: Console) -> None:
        found.table.print(console)
        console.print("The saved network was loaded again and gives the same numbers.", soft_wrap=True)
        if found.comparison is not None and found.comparison.choice is not None:
            console.print(f"All methods: {found.comparison.choice.reason}", soft_wrap=True)
        report = out / COMPARISON / REPORT_FILE
        console.print(f"{found.seconds:.0f} s. Open {report} and read {out / 'summary.md'}.", soft_wrap=True)

    answer({}, False, show)
