"""The checks of arguments."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.core.checks import check_choice, check_fraction, check_positive, check_whole
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.seeds import derive


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(1)])
def test_whole_numbers_of_python_and_numpy(value: Any) -> None:
    found = check_whole(value, "levels")
    assert found == value
    assert type(found) is int


@pytest.mark.slow
def test_numpys_integers_at_the_doors() -> None:
    """They give what Python's give, and go into files as numbers."""
    images, small = torch.rand(20, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    made, same = (
        rb.convert(small, rb.OPI(timesteps=kind(2)), calibration=images, num_calibration_images=kind(9), seed=kind(1))
        for kind in (np.int64, int)
    )
    assert torch.equal(made(images), same(images))
    assert json.dumps([made.recipe, asdict(made.provenance)]) == json.dumps([same.recipe, asdict(same.provenance)])
    steps, seeds = np.array([1, 2]), np.array([3])
    cells = rb.compare(small, [rb.OPI()], images, images + 1, steps, seeds=seeds)  # type: ignore[arg-type]
    assert [(cell.timesteps, cell.seed) for cell in cells.cells] == [(1, 3), (2, 3)]
    assert derive(np.int64(3), "order") == derive(3, "order")


@pytest.mark.parametrize("value", [0, -1, 2.0, np.float32(2), True, np.True_, "3", None, float("nan"), 11])
def test_what_is_no_whole_number_from_1_to_10(value: Any) -> None:
    with pytest.raises(DataError, match=r"^levels: is .* Remedy: use a whole number from 1 to 10\.$"):
        check_whole(value, "levels", most=10, error=DataError)


def test_the_least_may_be_zero_and_the_most_open() -> None:
    assert check_whole(np.int32(0), "seed", least=0) == 0
    assert check_whole(10**30, "seed") == 10**30
    with pytest.raises(RecipeError, match=r"use a whole number from 0\.$"):
        check_whole(-1, "seed", least=0)


@pytest.mark.parametrize("value", [1, 0.25, np.float32(0.5), np.int64(3)])
def test_positive_numbers(value: Any) -> None:
    assert check_positive(value, "scale") == value


@pytest.mark.parametrize("value", [0, -0.5, float("inf"), float("nan"), True, "1", None])
def test_what_is_no_positive_number(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"scale: is .* use a positive number"):
        check_positive(value, "scale")


def test_fractions_lie_between_0_and_1() -> None:
    assert check_fraction(np.float64(0.5), "share") == 0.5
    for value in (0, 1, 1.5, float("nan"), True, "a"):
        with pytest.raises(RecipeError, match=r"share: is .* between 0 and 1"):
            check_fraction(value, "share")


def test_a_choice_names_the_others() -> None:
    for choices in (("refuse", "gate"), Literal["refuse", "gate"]):
        check_choice("gate", choices, "max_pool")
    with pytest.raises(RecipeError, match=r"max_pool: is 'gait'\. Remedy: use one of refuse, gate"):
        check_choice("gait", Literal["refuse", "gate"], "max_pool")
