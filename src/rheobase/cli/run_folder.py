"""The folder of ``rheobase train``: its files, and whether a run may start or continue in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rheobase.cli.behaviour import note
from rheobase.cli.output import check_output
from rheobase.core.errors import TrainingError
from rheobase.core.folders import refuse_foreign, write_whole
from rheobase.methods.adaptive_levels import ADAPTED, UNIFORM
from rheobase.training import checkpoint

RUN, TRAINING, NETWORK = "run.json", "training", "network"
"""Inputs of the run, the folder of :func:`rheobase.train`, and the converted network."""
LEVELS, METRIC_PLOT, ALPHA_PLOT = "levels.json", "metric.png", "alpha.png"
"""Files added by ``--adapt``: :meth:`rheobase.methods.AdaptedLevels.to_json`, and plots of the metric."""
_RUN_FILES = {RUN, TRAINING, NETWORK, LEVELS, METRIC_PLOT, ALPHA_PLOT}


def check_run(out: Path) -> None:
    """Check that ``out`` is new or a folder of ``rheobase train``, and can be written.

    Raises:
        StoreError: if ``out`` is another folder, or cannot be written.
    """
    refuse_foreign(out, _RUN_FILES, "a run of `rheobase train`")
    check_output(out / NETWORK, overwrite=True)


def claim_run(out: Path, made_of: Mapping[str, Any], epochs: int, first: bool) -> None:
    """Check that a run in the folder has the same inputs; record the inputs of a new run.

    :func:`rheobase.train` compares settings, data and seed only, not levels, rounding or initial weights.

    Raises:
        TrainingError: if the folder holds a run with other inputs, or none are recorded.
    """
    path, training = out / RUN, out / TRAINING
    places = (training, training / UNIFORM, training / ADAPTED)
    found = [state for state in map(checkpoint.load, places) if state is not None]
    if found:
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as cause:
            raise TrainingError(
                f"does not record the inputs of the run ({cause})", where=str(path), remedy="choose another folder"
            ) from cause
        checkpoint.check_same_run(before, made_of, out)
    if not first:
        return
    if found:
        done = sum(len(state.history) for state in found)
        note(f"Continuing after epoch {done} of {epochs}, from the checkpoint in {training}.")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made_of, indent=2) + "\n")
    note(f"Every epoch writes a checkpoint to {training}. After an interruption, repeat the command to continue.")
