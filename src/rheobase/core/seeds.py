"""Random numbers from explicit seeds, with a separate seed for every purpose and every epoch of a run."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

from rheobase.core.checks import check_whole

MAX_SEED = 2**63 - 1


def check_seed(seed: object, where: str = "seed") -> int:
    """Return the seed as an ``int``; a RecipeError if it is not a whole number from 0 to 2⁶³ − 1."""
    return check_whole(seed, where, least=0, most=MAX_SEED)


def generator(seed: int) -> torch.Generator:
    """A new random number generator on the CPU, from a seed that :func:`check_seed` accepts."""
    return torch.Generator().manual_seed(check_seed(seed))


@contextlib.contextmanager
def random_state(seed: int, device: torch.device | None) -> Iterator[None]:
    """Seed the global generators within the context, and restore their state after it."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive(seed, "start"))
        yield


def derive(seed: int, *purpose: object) -> int:
    """A seed for one purpose, statistically independent of the seeds for others."""
    digest = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
