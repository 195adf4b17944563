"""The folder of a converted network: what lies in it, and whether it may be written."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from rheobase.cli.behaviour import show_progress
from rheobase.cli.options import Execution
from rheobase.core.errors import StoreError
from rheobase.data.batches import Batches
from rheobase.exchange import store
from rheobase.measure._evaluate import Evaluation, evaluate
from rheobase.network.spiking_network import SpikingNetwork

EVALUATION, PLOT = BESIDES = ("evaluation.json", "accuracy.png")
"""What the commands put beside the network's own files."""


def check_output(out: Path, overwrite: bool) -> None:
    """Find out before the long work whether saving can succeed.

    Raises:
        StoreError: if it cannot.
    """
    if out.exists():
        if not overwrite:
            raise StoreError("exists already", where=str(out), remedy="choose another folder, or pass --overwrite")
        check_replaceable(out)
    check_writable(out.absolute().parent, out)


def check_writable(parent: Path, out: Path) -> None:
    """See that ``out`` can be made in a folder that may not exist yet.

    Raises:
        StoreError: if it cannot.
    """
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".rheobase-", dir=parent):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", where=str(out), remedy="choose a folder you can write to"
        ) from None


def check_replaceable(out: Path) -> None:
    """See that ``out`` holds a converted network and nothing more.

    Raises:
        StoreError: if it does not.
    """
    held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    foreign = held - {store.STRUCTURE_FILE, store.TENSORS_FILE, *BESIDES}
    if foreign:
        raise StoreError(
            f"is not replaced, it holds more than a converted network ({min(foreign)})",
            where=str(out),
            remedy="choose another folder",
        )


def save(network: SpikingNetwork, out: Path, overwrite: bool) -> None:
    """Save the network; what lies beside the one that is replaced goes with it."""
    if overwrite:
        for name in BESIDES:  # of the network that is replaced
            (out / name).unlink(missing_ok=True)
    store.save(network, out, overwrite=overwrite)


def measure(network: SpikingNetwork, test: Batches, execution: Execution, folder: Path) -> Evaluation:
    """Evaluate a saved network, and put table and plot beside it."""
    network.execution = execution
    evaluation = evaluate(network, test, progress=show_progress())
    (folder / EVALUATION).write_text(json.dumps(evaluation.to_json(), indent=2) + "\n")
    from rheobase.measure.plots import accuracy_plot

    accuracy_plot({evaluation.method: evaluation}, folder / PLOT)
    return evaluation
