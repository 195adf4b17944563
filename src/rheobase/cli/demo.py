"""``rheobase demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rheobase.cli.behaviour import answer, command, show_progress


@command
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("rheobase-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demonstration.")] = False,
) -> None:
    """Train a small network on real handwritten digits, convert and evaluate it: less than a minute."""
    from rheobase.demo import run_demo  # here, because scikit-learn takes long to import

    found = run_demo(out, overwrite=overwrite, progress=show_progress())

    def show(console: Console) -> None:
        found.table.print(console)
        console.print("The saved network was loaded again and gives the same numbers.", soft_wrap=True)
        console.print(
            f"{found.seconds:.0f} s. Read {out / 'summary.md'} and look at {out / 'accuracy.png'}.",
            soft_wrap=True,
        )

    answer({}, False, show)
