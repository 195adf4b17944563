"""A converted network as text, as JSON, and as a folder with its evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

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
    """Refuse a folder that exists, holds foreign files, or cannot be written, before any work."""
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
    if evaluation.ann_scores:
        accuracy_plot({evaluation.method: evaluation}, out / PLOT)
    return evaluation


def network_document(network: SpikingNetwork, folder: str) -> dict[str, Any]:
    """Return a network's recipe, sites, calibration and provenance as plain values."""
    provenance = network.provenance
    return {
        "folder": folder,
        "recipe": network.recipe,
        "timesteps": network.timesteps,
        "execution": network.execution_mode,
        "alphabet": network.alphabet,
        "input_shape": list(network.graph.input_shape),
        "sites": [
            {name: getattr(site, name) for name in ("name", "shape", "previous", "next")}
            | {"alphabet": network.neuron(site.name).alphabet}
            | span_of_thresholds(network, site.index)
            for site in network.sites
        ],
        "sites_at": provenance.sites,
        "notes": _notes(network),
        "calibration": provenance.calibration,
        "passes": provenance.passes,
        "seed": provenance.seed,
        "versions": provenance.versions,
    }


def span_of_thresholds(network: SpikingNetwork, index: int) -> dict[str, Any]:
    """Return the smallest and largest θ of a site, and the number of silent channels."""
    values = torch.as_tensor(network.neurons[index].threshold).flatten()
    firing = values[torch.isfinite(values)]
    span = [float(firing.min()), float(firing.max())] if len(firing) else None
    return {"threshold": span, "silent_channels": len(values) - len(firing)}


def _notes(network: SpikingNetwork) -> list[str]:
    passes = network.provenance.passes
    of_passes = (f"{record['pass'].get('kind', 'pass')}: {note}" for record in passes for note in record["notes"])
    return [*network.provenance.notes, *of_passes]


def show_notes(network: SpikingNetwork, console: Console) -> None:
    """Print the notes of the conversion, pass by pass."""
    notes = _notes(network)
    if notes:
        console.print("Notes:")
    for note in notes:
        console.print(f"  - {note}", soft_wrap=True)


def show_conversion(network: SpikingNetwork, out: Path, evaluation: Evaluation | None, console: Console) -> None:
    """Print the number of sites, the effect of each pass and the evaluation."""
    name = network.recipe.get("name", "")
    converted = f"{len(network.sites)} sites converted with {name} for T = {network.timesteps}"
    console.print(f"{converted}, alphabet {network.alphabet.label}.", soft_wrap=True)
    for record in network.provenance.passes:
        line = f"{record['pass'].get('kind', 'pass')}: {len(record['changed'])} sites changed"
        errors = record["error_after"]
        if errors:
            largest = max(errors)
            line += (
                f"; relative squared error on held-out images: median {median(errors):.2g}, "
                f"largest {largest:.2g} ({network.sites[errors.index(largest)].name})"
            )
        console.print(line, soft_wrap=True)
    show_notes(network, console)
    if evaluation is not None:
        show_evaluation(evaluation, network, console)
    console.print(f"Saved in {out}.", soft_wrap=True)


def show_evaluation(evaluation: Evaluation, network: SpikingNetwork, console: Console) -> None:
    """Print the evaluation, and how the network was executed."""
    evaluation.print(console)
    closed_form = network.execution_mode == "counts"
    how = "closed form on time-means, at the analog network's cost" if closed_form else "simulation of every time-step"
    console.print(f"Execution {network.execution_mode}: {how}.", soft_wrap=True)
