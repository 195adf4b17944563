"""Checkpoints of a training run: one file after every epoch, from which an interrupted run resumes.

``checkpoint.safetensors`` contains the tensors of network and optimiser. Its header contains JSON with the completed
epochs, the settings, digests of network and data, and versions. Random state is not stored: every epoch draws from
generators seeded by the run's seed and the epoch's number, and the learning rate is a function of the step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rheobase.activations.activation import QuantisedActivation
from rheobase.core.errors import TrainingError
from rheobase.core.versions import versions
from rheobase.graph.trainable import TrainableGraph

CHECKPOINT_FILE = "checkpoint.safetensors"
METRICS_FILE = "metrics.jsonl"
WEIGHTS_FILE = "weights.safetensors"
VERSION = 2
"""Version 1 did not record the spiking network."""
_KEY = "rheobase-training"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after an epoch.

    Attributes:
        identity: everything that determines the result: settings, seed, data, network, by name.
        history: a record for each completed epoch.
        model: state of the network after the last epoch.
        optimiser: tensors of the optimiser, by parameter number and name.
        best: state of the network after the best epoch on the validation images; empty unless it is kept.
    """

    identity: dict[str, Any]
    history: list[dict[str, Any]]
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    best: dict[str, Tensor]


_STATES = ("model", "optimiser", "best")


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, then the metrics, each atomically: if that fails, the previous one is unchanged."""
    tensors = {f"{part}/{name}": value for part in _STATES for name, value in getattr(checkpoint, part).items()}
    content = {"version": VERSION, "identity": checkpoint.identity, "history": checkpoint.history}
    header = {_KEY: json.dumps({**content, "versions": versions()})}
    lines = "".join(json.dumps(record) + "\n" for record in checkpoint.history)
    _replace(folder / CHECKPOINT_FILE, _encoded(tensors, header))
    _replace(folder / METRICS_FILE, lines.encode())


def save_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the weights alone, for ``load_state_dict`` and the command line."""
    _replace(folder / WEIGHTS_FILE, _encoded(state))


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder, or None; refuse a damaged one, and one of another format version."""
    path = folder / CHECKPOINT_FILE
    remedy = "delete it to start from the beginning, or choose another folder"
    if not path.exists():
        return None
    states: dict[str, dict[str, Tensor]] = {part: {} for part in _STATES}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
            for key in file.keys():  # noqa: SIM118
                part, name = key.split("/", 1)
                states[part][name] = file.get_tensor(key)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as cause:
        raise TrainingError(f"is damaged or not a checkpoint ({cause})", where=str(path), remedy=remedy) from cause
    if content.get("version") != VERSION:
        raise TrainingError(f"has format version {content.get('version')!r}", where=str(path), remedy=remedy)
    return Checkpoint(content["identity"], content["history"], **states)


def check_same_run(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume a run with other settings, data or networks."""
    differences = _differences(found, json.loads(json.dumps(wanted)))
    if differences:
        raise TrainingError(
            f"holds the checkpoint of another run: {'; '.join(differences[:5])}",
            where=str(folder),
            remedy="choose another folder, or pass the arguments that the run was started with",
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser, as ``number/name``."""
    state = optimiser.state_dict()["state"].items()
    return {f"{n}/{name}": value for n, values in state for name, value in values.items() if value is not None}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state from :func:`optimiser_tensors`."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        like = parameters[int(number)]
        if value.shape == like.shape:  # in the parameter's memory format, for the rounding of fused kernels
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def activations(module: nn.Module) -> dict[str, str]:
    """Of quantised networks, what their tensors do not hold: levels and rounding, how levels are learned, dropout."""
    found = {name: part.identity() for name, part in module.named_modules() if isinstance(part, QuantisedActivation)}
    for name, part in module.named_modules():
        if isinstance(part, TrainableGraph) and part.constraint is not None:
            found[f"{name} target".strip()] = repr(part.constraint)
        if isinstance(part, TrainableGraph) and part.dropout:
            found[f"{name} dropout".strip()] = repr(part.dropout)
    return found


def prepare(folder: Path) -> None:
    """Create the folder, and check that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{CHECKPOINT_FILE}.new"
        probe.touch()
        probe.unlink()
    except OSError as cause:
        raise TrainingError(
            f"cannot be written ({cause.strerror or cause})", where=str(folder), remedy="choose another folder"
        ) from cause


def _differences(found: Any, wanted: Any, place: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        pairs = [(key, found.get(key), wanted.get(key)) for key in {**wanted, **found}]
        return [text for key, old, new in pairs for text in _differences(old, new, f"{place} {key}".strip())]
    return [] if found == wanted else [f"{place} was {str(found)[:120]} and is now {str(wanted)[:120]}"]


def _encoded(tensors: Mapping[str, Tensor], header: dict[str, str] | None = None) -> bytes:
    # copies, because safetensors refuses tensors that share memory
    copied = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    return safetensors.torch.save(copied, metadata=header)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as cause:
        raise TrainingError(
            f"cannot be written ({cause.strerror or cause})", where=str(path), remedy="free space on that disk"
        ) from cause
