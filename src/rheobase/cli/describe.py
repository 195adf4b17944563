"""Description of a spiking network, as printed by the commands and as JSON."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from rheobase.measure._evaluate import Evaluation
from rheobase.network.spiking_network import Execution, SpikingNetwork

EXECUTIONS: dict[Execution, str] = {
    "counts": "closed form on time-means, at the analog network's cost",
    "steps": "simulation of every time-step",
}


def network_document(network: SpikingNetwork, folder: str) -> dict[str, Any]:
    """Return a network's recipe, sites, calibration and provenance as plain values."""
    provenance = network.provenance
    return {
        "folder": folder,
        "recipe": network.recipe,
        "timesteps": network.timesteps,
        "execution": network.execution_mode,
        "input_shape": list(network.graph.input_shape),
        "sites": [
            {name: getattr(site, name) for name in ("name", "shape", "previous", "next")}
            | span_of_thresholds(network, site.index)
            for site in network.sites
        ],
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
    """Notes of the conversion, pass by pass."""
    notes = list(network.provenance.notes)
    for record in network.provenance.passes:
        notes += [f"{record['pass'].get('kind', 'pass')}: {note}" for note in record["notes"]]
    return notes


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
    console.print(f"{len(network.sites)} sites converted with {name} for T = {network.timesteps}.", soft_wrap=True)
    for record in network.provenance.passes:
        console.print(_pass_line(network, record), soft_wrap=True)
    show_notes(network, console)
    if evaluation is not None:
        show_evaluation(evaluation, network, console)
    console.print(f"Saved in {out}.", soft_wrap=True)


def show_evaluation(evaluation: Evaluation, network: SpikingNetwork, console: Console) -> None:
    """Print the evaluation, and how the network was executed."""
    evaluation.print(console)
    console.print(f"Execution {network.execution_mode}: {EXECUTIONS[network.execution_mode]}.", soft_wrap=True)


def _pass_line(network: SpikingNetwork, record: dict[str, Any]) -> str:
    line = f"{record['pass'].get('kind', 'pass')}: {len(record['changed'])} sites changed"
    errors = record["error_after"]
    if errors:
        worst = max(range(len(errors)), key=errors.__getitem__)
        line += (
            f"; relative squared error on held-out images: median {median(errors):.2g}, "
            f"largest {errors[worst]:.2g} ({network.sites[worst].name})"
        )
    return line
