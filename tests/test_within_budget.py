"""Time-steps and magnitude chosen within a budget, on held-out calibration images."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rheobase as rb
from rheobase.comparison import BudgetedConversion
from rheobase.comparison.budget import Candidate, check_limits, choose
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.seeds import generator
from rheobase.graph import Graph, capture
from rheobase.neurons.response import Alphabet
from rheobase.zoo.digits import digits


@cache
def traced() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10))
    return capture(net.eval(), digits().train[0][:4]).graph


def images(n: int = 80) -> Tensor:
    return digits().train[0][:n]


def graded(timesteps: int, magnitude: int) -> rb.Recipe:
    return rb.Graded(timesteps=timesteps, magnitude=magnitude, iterations=0)


def within(budget: dict[str, float], **changes: Any) -> BudgetedConversion:
    given: dict[str, Any] = {
        "calibration": images(),
        "method": graded,
        "timesteps": (1, 2, 4),
        "magnitudes": (1, 2),
        **changes,
    }
    return rb.convert_within_budget(traced(), budget, **given)


def test_the_alphabet_and_its_bits() -> None:
    assert Alphabet.signed(4).bits == math.log2(9)
    assert Alphabet.union([Alphabet.upto(3), Alphabet.signed(1)]).values == (-1, 0, 1, 2, 3)
    assert Alphabet.upto(1).label == "{0, 1} (1 bit a spike)"
    powers = Alphabet((-4, -2, -1, 0, 1, 2, 4))
    assert (powers.magnitude, str(powers)) == (4, "{0, ±1, ±2, ±4}")
    assert str(Alphabet((-1, 0, 2, 3))) == "{-1, 0, 2, 3}"


def test_every_result_states_the_alphabet() -> None:
    snn = rb.convert(traced(), graded(2, 3), calibration=images())
    assert str(snn.alphabet) == "{-3..3}"
    evaluation = rb.evaluate(snn, images(20))
    assert "Alphabet {-3..3} (2.81 bits a spike)." in str(evaluation)
    for result in (
        rb.energy(snn, images(20)),
        rb.latency(snn),
        rb.diagnose(snn, images(20)),
        rb.measure.unevenness(snn, images(20)),
        rb.measure.distribution(snn, images(20)),
    ):
        header, _, first = str(result).splitlines()[:3]
        column = [text.strip() for text in header.split("|")].index("alphabet")
        assert first.split("|")[column].strip() == "{-3..3}"
        assert json.loads(json.dumps(result.to_json()))["rows"][0]["alphabet"]["values"] == [-3, -2, -1, 0, 1, 2, 3]
    assert evaluation.to_json()["alphabet"]["bits"] == pytest.approx(math.log2(7))


def test_the_most_accurate_candidate_within_the_budget() -> None:
    found = within({"latency": 2, "bits": 2.4})
    assert [(row.method, row.timesteps) for row in found.rows] == [
        (f"Graded, m = {m}", t) for t in (1, 2) for m in (1, 2)
    ]
    best = max(found.rows, key=lambda row: (row.agreement or 0, -row.energy))
    assert (found.choice.method, found.choice.timesteps) == (best.method, best.timesteps)
    assert found.network.timesteps == best.timesteps
    assert found.network.alphabet == best.alphabet
    assert found.images == 20
    assert f"budget: {found.choice.reason}" in found.network.provenance.notes
    assert "chosen" in str(found)
    written = json.loads(json.dumps(found.to_json()))
    assert written["choice"]["budget"] == {"latency": 2, "bits": 2.4}
    assert written["rows"][0]["bits"] == 1.58


def test_the_candidates_are_measured_on_images_that_no_conversion_saw() -> None:
    found = within({"latency": 1}, magnitudes=(2,))
    order = torch.randperm(80, generator=generator(0))
    snn = rb.convert(traced(), graded(1, 2), calibration=images()[order[20:]])
    assert found.network.provenance.calibration["images"] == 60
    assert found.rows[0].agreement == rb.evaluate(snn, images()[order[:20]]).rows[0].agreement
    assert torch.equal(found.network(images()), snn(images()))


def test_energy_decides_by_the_chosen_convention() -> None:
    everything = within({"energy": 100.0})
    cheapest = min(row.energy for row in everything.rows)
    found = within({"energy": cheapest * 1.0001})
    assert len(found.rows) == len(everything.rows)
    assert [row.energy for row in found.rows] == [row.energy for row in everything.rows]
    chosen = next(
        row for row in found.rows if (row.method, row.timesteps) == (found.choice.method, found.choice.timesteps)
    )
    assert chosen.energy == cheapest
    assert "no: energy" in str(found)
    multiplied = within({"energy": 100.0}, graded_spikes="products")
    for one, other in zip(everything.rows, multiplied.rows, strict=True):
        assert (one.energy == other.energy) == (one.alphabet == Alphabet.signed(1))
    assert "one multiplication by k" in str(multiplied)


def test_labels_decide_by_accuracy() -> None:
    found = within({"latency": 1}, calibration=(images(), digits().train[1][:80]))
    assert all(row.accuracy is not None for row in found.rows)
    assert "accuracy" in found.choice.reason


def test_other_methods_with_a_magnitude() -> None:
    found = within({"bits": 2}, method=rb.Burst, timesteps=(2,), magnitudes=(2, 3, 4))
    assert {str(row.alphabet) for row in found.rows} == {"{0, 1, 2}", "{0..3}"}  # 0..4 has 2.32 bits


def test_an_impossible_budget_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"latency of 0.5 steps: the nearest is Graded, m = 1 at T = 1 \(latency 1 "):
        within({"latency": 0.5})
    with pytest.raises(RecipeError, match=r"1 bits a spike: the nearest is Graded, m = 1 .*\(1.58 bits a spike\)"):
        within({"bits": 1})
    with pytest.raises(RecipeError, match=r"1e-05 of the .*: the nearest is .* % agreement .* energy 0\.\d+ of"):
        within({"energy": 1e-5}, timesteps=(1,))


@pytest.mark.parametrize(
    ("budget", "changes", "error", "said"),
    [
        ({}, {}, RecipeError, "budget: is empty"),
        ({"speed": 1}, {}, RecipeError, "unknown field 'speed'"),
        ({"bits": 0}, {}, RecipeError, "budget bits: is 0"),
        ({"latency": float("nan")}, {}, RecipeError, "budget latency: is nan"),
        ({"latency": 4}, {"magnitudes": ()}, RecipeError, "magnitudes: is empty"),
        ({"latency": 4}, {"magnitudes": (0,)}, RecipeError, "magnitudes: is 0"),
        ({"latency": 4}, {"timesteps": 4}, RecipeError, "timesteps: is 4"),
        ({"latency": 4}, {"graded_spikes": "shifts"}, RecipeError, "graded_spikes"),
        ({"latency": 4}, {"method": rb.RateCoding}, RecipeError, "RateCoding: unknown field .magnitude."),
        ({"latency": 4}, {"method": lambda timesteps: None}, TypeError, "method: cannot be called .*magnitude"),
        ({"latency": 4}, {"method": dict}, TypeError, "method: returns a dict"),
        ({"latency": 4}, {"calibration": torch.rand(7, 1, 8, 8)}, DataError, "has 7 images"),
        ({"latency": 4}, {"calibration": torch.rand(9, 1, 9, 9)}, DataError, "shape"),
    ],
)
def test_bad_input(budget: Any, changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        within(budget, **changes)


NUMBERS = st.floats(0.1, 10)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.text(min_size=1, max_size=2),
        st.integers(1, 9),
        st.builds(Alphabet.signed, st.integers(1, 9)),
        latency=NUMBERS,
        energy=NUMBERS,
        agreement=st.floats(0, 1),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda candidate: (candidate.method, candidate.timesteps),
)


@given(CANDIDATES, st.dictionaries(st.sampled_from(["latency", "energy", "bits"]), NUMBERS, min_size=1))
def test_no_candidate_within_the_budget_is_better_than_the_choice(
    candidates: list[Candidate], budget: dict[str, float]
) -> None:
    choice = choose(candidates, check_limits(budget), "images")
    fitting = [c for c in candidates if all(getattr(c, name) <= limit for name, limit in budget.items())]
    assert (choice.method is None) == (not fitting)
    if fitting:
        (chosen,) = [c for c in fitting if (c.method, c.timesteps) == (choice.method, choice.timesteps)]
        assert chosen.score == max(c.score for c in fitting)
    else:
        assert "the nearest is" in choice.reason
