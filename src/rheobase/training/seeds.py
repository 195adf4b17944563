"""Random numbers of a run: every purpose and every epoch has a seed of its own, so there is no state to keep."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def random_state(seed: int, device: torch.device | None) -> Iterator[None]:
    """Random numbers from the seed; the state outside is left as it was."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive(seed, "start"))
        yield


def derive(seed: int, *purpose: object) -> int:
    """A seed for one purpose, that tells nothing about the seed for another."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
