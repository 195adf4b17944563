"""The folder of a converted network: checked before the conversion, written after it."""

from __future__ import annotations

import json
from pathlib import Path

from rheobase.cli.behaviour import show_progress
from rheobase.cli.options import Execution, Source
from rheobase.core.errors import StoreError
from rheobase.core.folders import check_writable, refuse_foreign
from rheobase.data.batches import Batches
from rheobase.exchange import store
from rheobase.measure._evaluate import Evaluation, evaluate
from rheobase.network.spiking_network import SpikingNetwork

EVALUATION, PLOT = BESIDES = ("evaluation.json", "accuracy.png")
"""Files that the commands write next to the network's files."""


def check_output(out: Path, overwrite: bool) -> None:
    """Check that the network can be saved, before any work.

    Raises:
        StoreError: if the folder exists, holds foreign files, or cannot be written.
    """
    if out.exists() and not overwrite:
        raise StoreError("already exists", where=str(out), remedy="choose another folder, or pass --overwrite")
    refuse_foreign(out, (store.STRUCTURE_FILE, store.TENSORS_FILE, *BESIDES), "a converted network", hidden=True)
    check_writable(out.absolute().parent)


def save_and_measure(
    network: SpikingNetwork, out: Path, overwrite: bool, images: Source, test: Batches | None, execution: Execution
) -> Evaluation | None:
    """Save a network with the preprocessing of its images; evaluate it if test images are given.

    The evaluation and its plot are saved next to the network. Those of a replaced network are deleted.
    """
    network.provenance.calibration["preprocessing"] = images.described()
    if overwrite:
        for name in BESIDES:
            (out / name).unlink(missing_ok=True)
    store.save(network, out, overwrite=overwrite)
    if test is None:
        return None
    from rheobase.measure.plots import accuracy_plot

    network.execution = execution
    evaluation = evaluate(network, test, progress=show_progress())
    (out / EVALUATION).write_text(json.dumps(evaluation.to_json(), indent=2) + "\n")
    accuracy_plot({evaluation.method: evaluation}, out / PLOT)
    return evaluation
