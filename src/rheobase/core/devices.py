"""Devices by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from rheobase.core.errors import RecipeError

_SPREAD: ContextVar[tuple[torch.device, ...]] = ContextVar("_SPREAD", default=())


def find_device(name: str | torch.device) -> torch.device:
    """The device ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; ``auto``: a GPU if there is one, else the CPU.

    Raises:
        RecipeError: if it is no device, or not on this machine.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        kinds = [kind for kind, is_there in (("cuda", _has_cuda), ("mps", _has_mps)) if is_there()]
        return torch.device(kinds[0] if kinds else "cpu")
    remedy = "use cpu, cuda, cuda:0, mps or auto"
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError):
        raise RecipeError(f"is {name!r}", where="device", remedy=remedy) from None
    if found.type == "cpu" and found.index in (None, 0):
        return torch.device("cpu")
    if found.type == "cuda" and _has_cuda():
        if (found.index or 0) < torch.cuda.device_count():
            return found
        reason = f"is {name}, but this machine has {torch.cuda.device_count()} of them"
    elif found.type == "cuda":
        built = torch.version.cuda or torch.version.hip
        reason = f"is {name}, but PyTorch {'sees no GPU' if built else 'is built without CUDA'}"
    elif found.type == "mps" and _has_mps() and found.index in (None, 0):
        return found
    else:
        reason = f"is {name}, which this machine does not have"
    raise RecipeError(reason, where="device", remedy=remedy)


@contextmanager
def spread_over(*devices: str | torch.device) -> Iterator[None]:
    """Within it, simulations and passes over calibration images run on several devices at the same time.

    Images are divided among the devices; each has a copy of the network. What is counted and summed is so in the order
    of the images, so that devices of the same kind give the results of a single one. Training has processes of its own
    (``rb.train(devices=...)``).

    Raises:
        RecipeError: if one is no device, or not on this machine, or if there are fewer than two.

    Example:
        >>> with spread_over("cpu", "cpu"):
        ...     [device.type for device in spread()]
        ['cpu', 'cpu']
    """
    found = tuple(find_device(device) for device in devices)
    if len(found) < 2:
        reason = f"are {len(found)}, so that there is nothing to share"
        remedy = 'give two or more, or move the network to a single one, as network.to("cuda:1")'
        raise RecipeError(reason, where="devices", remedy=remedy)
    token = _SPREAD.set(found)
    try:
        yield
    finally:
        _SPREAD.reset(token)


def spread() -> tuple[torch.device, ...]:
    """The devices of the surrounding :func:`spread_over`; none outside of it."""
    return _SPREAD.get()


def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
