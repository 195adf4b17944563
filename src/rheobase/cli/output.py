"""The folder that a command writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rheobase import store
from rheobase.errors import StoreError
from rheobase.network import SpikingNetwork

EVALUATION, PLOT = BESIDES = ("evaluation.json", "accuracy.png")
"""What ``convert`` puts beside the network's own files."""


def check_output(out: Path, overwrite: bool) -> None:
    """Find out before the long work whether saving can succeed."""
    if out.exists():
        _check_replaceable(out, overwrite)
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".rheobase-", dir=parent):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", where=str(out), remedy="choose a folder you can write to"
        ) from None


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
