"""Seeds: what every entry point takes and refuses, and that purposes do not share numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rheobase as rb
from rheobase.core.errors import RecipeError
from rheobase.core.seeds import MAX_SEED, derive, generator

IMAGES = torch.rand(20, 3)
SMALL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
ENTRIES: dict[str, Callable[[Any], object]] = {
    "convert": lambda seed: rb.convert(SMALL, rb.OPI(timesteps=2), calibration=IMAGES, seed=seed),
    "quantise": lambda seed: rb.quantise(SMALL, rb.QVM(levels=2), calibration=IMAGES, seed=seed),
    "train": lambda seed: rb.train(
        SMALL, (IMAGES, torch.zeros(20).long()), rb.Training(epochs=1, learning_rate=0.1, batch_size=8), seed=seed
    ),
}


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64, True, 1.0, "1", None])
@pytest.mark.parametrize("entry", ENTRIES)
def test_impossible_seeds(entry: str, seed: Any) -> None:
    with pytest.raises(RecipeError, match=r"seed: is .* use a whole number from 0"):
        ENTRIES[entry](seed)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_largest_seed(entry: str) -> None:
    assert ENTRIES[entry](MAX_SEED) is not None


@given(st.integers(0, MAX_SEED), st.integers(0, 1000))
def test_purposes_are_apart_and_every_derived_seed_is_one(seed: int, epoch: int) -> None:
    seeds = [derive(seed, purpose, epoch) for purpose in ("order", "augmentation", "dropout")]
    assert len(set(seeds)) == 3
    for one in seeds:
        generator(one)


def test_the_state_outside_stays() -> None:
    before = torch.random.get_rng_state()
    generator(3)
    assert torch.equal(before, torch.random.get_rng_state())
