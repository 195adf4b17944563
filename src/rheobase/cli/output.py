"""The folder that a command writes."""

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
"""What ``convert`` puts beside the network's own files."""
RUN, TRAINING, NETWORK = "run.json", "training", "network"
"""What ``train`` writes: what the run is made of, the folder of :func:`rheobase.train`, and what ``convert`` writes."""
LEVELS, METRIC_PLOT, ALPHA_PLOT = ADAPTED = "levels.json", "metric.png", "alpha.png"
"""What ``train --adapt`` adds: :meth:`rheobase.methods.AdaptedLevels.to_json`, and the plots of the metric."""


def check_output(out: Path, overwrite: bool) -> None:
    """Find out before the long work whether saving can succeed."""
    if out.exists():
        _check_replaceable(out, overwrite)
    _check_writable(out.absolute().parent, out)


def _check_writable(parent: Path, out: Path) -> None:
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".rheobase-", dir=parent):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", where=str(out), remedy="choose a folder you can write to"
        ) from None


def check_run(out: Path) -> None:
    """Find out before the long work whether ``out`` is new or a folder of ``rheobase train``, and can be written."""
    if out.exists():
        held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
        # What begins with a dot was being written when a run was killed.
        foreign = {name for name in held if not name.startswith(".")} - {RUN, TRAINING, NETWORK, *ADAPTED}
        if foreign:
            raise StoreError(
                f"holds something else than a run of `rheobase train` ({min(foreign)})",
                where=str(out),
                remedy="choose another folder",
            )
    if (out / NETWORK).exists():
        _check_replaceable(out / NETWORK, overwrite=True)
    _check_writable(out.absolute(), out)


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not overwrite:
        raise StoreError("exists already", where=str(out), remedy="choose another folder, or pass --overwrite")
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
    network.execution = execution.value
    evaluation = evaluate(network, test, progress=show_progress())
    (folder / EVALUATION).write_text(json.dumps(evaluation.to_json(), indent=2) + "\n")
    from rheobase.measure.plots import accuracy_plot

    accuracy_plot({evaluation.method: evaluation}, folder / PLOT)
    return evaluation
