"""The folder of ``rheobase train``: what lies in it, and whether a run may begin or go on there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rheobase.cli.behaviour import note
from rheobase.cli.output import check_output
from rheobase.core.errors import TrainingError
from rheobase.core.folders import refuse_foreign, write_whole
from rheobase.methods.adaptive_levels.adapt import ADAPTED, UNIFORM
from rheobase.training import checkpoint

RUN, TRAINING, NETWORK = "run.json", "training", "network"
"""What the run is made of, the folder of :func:`rheobase.train`, and what ``rheobase convert`` writes."""
LEVELS, METRIC_PLOT, ALPHA_PLOT = "levels.json", "metric.png", "alpha.png"
"""What ``--adapt`` adds: :meth:`rheobase.methods.AdaptedLevels.to_json`, and the plots of the metric."""
_OURS = {RUN, TRAINING, NETWORK, LEVELS, METRIC_PLOT, ALPHA_PLOT}


def check_run(out: Path) -> None:
    """Find out before the long work whether ``out`` is new or a folder of ``rheobase train``, and can be written.

    Raises:
        StoreError: if it is neither, or cannot.
    """
    refuse_foreign(out, _OURS, "a run of `rheobase train`")
    check_output(out / NETWORK, overwrite=True)


def claim_run(out: Path, made_of: Mapping[str, Any], epochs: int, first: bool) -> None:
    """Go on only with a run that is made of the same; note in the folder what a new one is made of.

    What :func:`rheobase.train` compares (settings, data, seed) does not tell levels, rounding or starting weights.

    Raises:
        TrainingError: if the folder holds another run, or does not tell which.
    """
    path, training = out / RUN, out / TRAINING
    places = (training, training / UNIFORM, training / ADAPTED)
    found = [state for state in map(checkpoint.load, places) if state is not None]
    if found:
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as cause:
            raise TrainingError(
                f"does not tell what the run is made of ({cause})", where=str(path), remedy="choose another folder"
            ) from cause
        checkpoint.check_same_run(before, made_of, out)
    if not first:
        return
    if found:
        done = sum(len(state.history) for state in found)
        note(f"Going on after epoch {done} of {epochs}, from the checkpoint in {training}.")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made_of, indent=2) + "\n")
    note(f"Every epoch ends with a checkpoint in {training}: if interrupted, give the same command again.")
