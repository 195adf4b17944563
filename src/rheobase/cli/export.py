"""``rheobase export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from typer import Argument, Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command
from rheobase.exchange import store
from rheobase.exchange.nir import export_nir
from rheobase.network.folding import fold_thresholds


@command
def export(
    network_folder: options.Saved,
    out: Annotated[Path, Argument(metavar="OUT.nir", help="NIR file to write.")],
    approximate: Annotated[
        bool, Option("--approximate", help="Also write what only Rheobase restores exactly.")
    ] = False,
    reset: Annotated[
        Literal["value", "subtract"], Option(help="Reset of IF nodes in the simulator that reads the file.")
    ] = "value",
    fold: Annotated[bool, Option("--fold-thresholds", help="Fold the thresholds into the weights first.")] = False,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Write a saved spiking network as a NIR file for other simulators."""
    network = store.load(network_folder)
    if fold:
        network = fold_thresholds(network)
    written = export_nir(network, out, approximate, reset=reset, overwrite=overwrite)

    def show(console: Console) -> None:
        for loss in written.losses:
            console.print(f"Not exact in other simulators: {loss}.", soft_wrap=True)
        how = "exactly" if written.exact else "approximately; rheobase.exchange.import_nir restores it exactly"
        console.print(f"{len(network.sites)} sites written {how}. Saved in {written.path}.", soft_wrap=True)

    document = {
        "path": str(written.path),
        "exact": written.exact,
        "reset": written.reset,
        "losses": [str(loss) for loss in written.losses],
        "sites": written.sites,
    }
    return Answer(document, show)
