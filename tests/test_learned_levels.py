"""The activation that learns its levels, and the mean that levels are held to."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rheobase as rb
from rheobase.activations.learned_staircase import PARAMETERS, LearnedStaircase
from rheobase.activations.step_target import StepTarget
from rheobase.core.errors import ModelError, TraceError

CASES = sorted(PARAMETERS)
BY_CHANNEL = ("n_d", "n_alpha", "t_alpha")


def named(parts: list[LearnedStaircase]) -> dict[str, LearnedStaircase]:
    return {str(i): part for i, part in enumerate(parts)}


def test_worked_out_by_hand() -> None:
    """α = 2, t = 3.6, so four steps of 0.5; the middle of a step rounds up."""
    x = torch.tensor([[-3.0, -0.2, 0.0, 0.24, 0.25, 0.6, 1.2, 1.74, 1.75, 2.0, 9.0]])
    expected = [[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]]
    assert LearnedStaircase("t_alpha", 3.6, 2.0)(x).tolist() == expected


@pytest.mark.parametrize("case", CASES)
@given(t=st.floats(1, 32), alpha=st.floats(0.05, 20), x=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=30))
def test_against_plain_loops(case: str, t: float, alpha: float, x: list[float]) -> None:
    part = LearnedStaircase(case, t, alpha).double()
    t, alpha = float(part.real_steps.detach()), float(part.saturation.detach())
    levels = min(max(math.floor(t + 0.5), 1), 32)
    assert part.levels == levels
    for value, found in zip(x, part(torch.tensor([x]).double())[0].tolist(), strict=True):
        count = min(max(math.floor(value * levels / alpha + 0.5), 0), levels)
        tie = abs((value * levels / alpha + 0.5) % 1 - 0.5) > 0.5 - 1e-9
        assert tie or found == pytest.approx(alpha / levels * count)


@pytest.mark.parametrize("case", CASES)
@given(t=st.floats(1, 20), alpha=st.floats(0.3, 4), seed=st.integers(0, 2**31))
def test_gradients_are_equations_7_to_10(case: str, t: float, alpha: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = (torch.randn(40, 1, generator=g).double() * 2).requires_grad_()
    weight = torch.randn(40, 1, generator=g).double()
    part = LearnedStaircase(case, t, alpha).double()
    q = part(x)
    (q * weight).sum().backward()
    one, two = (getattr(part, name) for name in PARAMETERS[case])
    error, log2, a = (q - x).detach(), math.log(2), float(part.saturation.detach())
    inside, above = (x.detach() >= 0) & (x.detach() <= a), x.detach() > a
    if case == "n_d":
        n, d = one.item(), two.item()
        within, beyond = (0 * error, error / d), (log2 * 2**n * d, 2**n)
    elif case == "n_alpha":
        within, beyond = (-log2 * error, error / a), (0.0, 1.0)
    elif case == "d_alpha":
        within, beyond = (error / one.item(), 0 * error), (0.0, 1.0)
    else:
        within, beyond = (-error / one.item(), error / a), (0.0, 1.0)
    for parameter, here, there in zip((one, two), within, beyond, strict=True):
        expected = (weight * (inside * here + above * there)).sum()
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(x.grad, weight * inside)


@pytest.mark.parametrize("case", CASES)
def test_gradients_against_finite_differences_of_the_relaxed_function(case: str) -> None:
    """Straight-through: each rounding adds a number that does not move, ⌊u⌉ = u + e and likewise for t."""
    x = torch.linspace(-1, 3, 401).double().reshape(-1, 1)[1::2]
    part = LearnedStaircase(case, 4.0, 1.3).double()  # t whole: the relaxed t has no rounding error to carry
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    (part(x) * weight).sum().backward()
    values = {name: float(getattr(part, name)) for name in PARAMETERS[case]}

    def relaxed(numbers: dict[str, float]) -> float:
        t = numbers.get("steps", 2 ** numbers["bits"] if "bits" in numbers else 0.0)
        t = t or numbers["threshold"] / numbers["step_size"]
        alpha = numbers["threshold"] if "threshold" in numbers else numbers["step_size"] * t
        u = x * 4 / 1.3
        e = (u + 0.5).floor() - u
        q = torch.where(x > 1.3, alpha, torch.where(x < 0, 0.0, alpha / t * (x * t / alpha + e)))
        return float((q * weight).sum())

    for name, value in values.items():
        step = 1e-6
        slope = (relaxed({**values, name: value + step}) - relaxed({**values, name: value - step})) / (2 * step)
        assert float(getattr(part, name).grad) == pytest.approx(slope, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("case", BY_CHANNEL)
def test_one_threshold_for_each_channel(case: str) -> None:
    alpha = torch.tensor([0.7, 1.3, 2.0])
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))
    part = LearnedStaircase(case, 3.0, alpha)
    q = part(x)
    q.square().sum().backward()
    total: Tensor | float = 0.0
    for c in range(3):
        single = LearnedStaircase(case, 3.0, float(alpha[c]))
        expected = single(x[:, c : c + 1])
        torch.testing.assert_close(q[:, c : c + 1], expected)
        expected.square().sum().backward()
        one, two = (getattr(single, name).grad for name in PARAMETERS[case])
        torch.testing.assert_close(getattr(part, PARAMETERS[case][1]).grad[c], two)
        total = total + one
    torch.testing.assert_close(getattr(part, PARAMETERS[case][0]).grad, total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("case", "same"), [("n_d", "α"), ("n_alpha", "tα"), ("d_alpha", "t")])
def test_matched_rates_move_t_and_alpha_alike(case: str, same: str) -> None:
    """A small step down the gradient, x below α: to first order what (t, α) does, where the case has that gradient."""
    x = torch.rand(400, 1, generator=torch.Generator().manual_seed(3)).double() * 1.7
    moved = {}
    for name in ("t_alpha", case):
        part = LearnedStaircase(name, 3.0, 1.7).double()
        before = float(part.real_steps.detach()), float(part.saturation.detach())
        (part(x) * (x - part(x).detach())).sum().backward()
        with torch.no_grad():
            for leaf in PARAMETERS[name]:
                parameter = getattr(part, leaf)
                parameter -= 1e-6 * part.rates.get(leaf, 1.0) * parameter.grad
        moved[name] = float(part.real_steps.detach()) - before[0], float(part.saturation.detach()) - before[1]
    if "t" in same:
        assert moved[case][0] == pytest.approx(moved["t_alpha"][0], rel=1e-3)
    if "α" in same:
        assert moved[case][1] == pytest.approx(moved["t_alpha"][1], rel=1e-3)
    assert min(map(abs, moved["t_alpha"])) > 1e-7
    assert LearnedStaircase(case, 3.0, 1.7, rate=2.0, matched=False).rates == {
        name: 2.0 for name in PARAMETERS[case] if name in ("bits", "steps")
    }


@pytest.mark.parametrize("case", CASES)
@given(t=st.floats(1, 32), alpha=st.floats(0.1, 9), new=st.floats(1, 32))
def test_setting_t_leaves_alpha(case: str, t: float, alpha: float, new: float) -> None:
    part = LearnedStaircase(case, t, alpha)
    part.set_steps(new)
    assert float(part.real_steps) == pytest.approx(new, rel=1e-5)
    assert float(part.saturation) == pytest.approx(alpha, rel=1e-5)


# -- the target ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@given(
    t=st.lists(st.one_of(st.floats(0.5, 40), st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0])), min_size=1, max_size=12),
    mean=st.floats(1, 8),
    done=st.sampled_from([0.1, 0.9]),
)
def test_the_mean_is_met_exactly(case: str, t: list[float], mean: float, done: float) -> None:
    """The largest sum of levels that the mean allows, whatever t were, ties included; every t within the bounds."""
    parts = []
    for value in t:
        part = LearnedStaircase(case, 1.0, 0.8, max_timesteps=8)
        part.set_steps(value)
        parts.append(part)
    StepTarget(mean, 8).project(named(parts), done)
    levels = [part.levels for part in parts]
    assert sum(levels) == min(math.floor(mean * len(t) + 1e-6), 8 * len(t))
    assert all(1 <= level <= 8 for level in levels)
    again = [float(part.real_steps) for part in parts]
    StepTarget(mean, 8).project(named(parts), 0.1)
    assert [part.levels for part in parts] == levels  # nothing is left to do
    assert [float(part.real_steps) for part in parts] == pytest.approx(again, abs=0.6)
    seen = [min(max(value, 1), 8) if done < 0.5 else min(max(math.floor(value + 0.5), 1), 8) for value in t]
    order = sorted(range(len(t)), key=lambda i: seen[i])
    for a, b in pairwise(order):  # no site gets more than one with a larger t
        assert levels[a] <= levels[b] or seen[a] == pytest.approx(seen[b], abs=1e-4)


def test_what_is_met_already_stays() -> None:
    parts = [LearnedStaircase("t_alpha", t) for t in (1.2, 2.3, 4.4)]
    StepTarget(7 / 3, 32).project(named(parts), 0.0)
    assert [float(part.real_steps) for part in parts] == pytest.approx([1.2, 2.3, 4.4])
    StepTarget(2.0, 32).project(
        named(parts), 0.0
    )  # one has to give way: the one nearest to its edge, 4.4 falls by 0.9, 2.3 by 0.8
    assert [part.levels for part in parts] == [1, 1, 4]


def test_levels_settle() -> None:
    part = LearnedStaircase("t_alpha", 2.3)
    target = StepTarget(None, 32, freeze_after=0.5)
    target.project({"only": part}, 0.49)
    assert float(part.real_steps) == pytest.approx(2.3)
    target.project({"only": part}, 0.5)
    assert float(part.real_steps) == 2.0


def test_a_step_size_that_falls_to_zero() -> None:
    """Case 3: t = α/d would grow without end; it is held at the bound, and a note says so."""
    part = LearnedStaircase("d_alpha", 4.0, 1.0, max_timesteps=16)
    with torch.no_grad():
        part.step_size.fill_(-0.1)  # type: ignore[operator]
    assert part.levels == 16
    assert bool(part(torch.rand(2, 2)).isfinite().all())
    StepTarget(None, 16).project({"only": part}, 0.1)
    assert float(part.step_size) == pytest.approx(1 / 16)  # type: ignore[arg-type]
    one = LearnedStaircase("t_alpha", 1.0)
    notes = StepTarget(None, 16).notes({"first": part, "second": one})
    phrases = ("L = 1, at most one spike, at second", "first (16)", "first (1 steps)")
    assert all(phrase in note for phrase, note in zip(phrases, notes, strict=True))
    (note,) = StepTarget(None, 16).notes({"only": one})
    assert "L = 1" in note
    assert "every site" in note


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("t_d", 3.0), {}, "parametrisation: is 't_d'"),
        (("t_alpha", 0.5), {}, "steps: is 0.5"),
        (("t_alpha", 33.0), {}, "from 1 to 32"),
        (("t_alpha", float("nan")), {}, "steps: is nan"),
        (("t_alpha", 3.0, float("inf")), {}, "threshold: is not positive and finite"),
        (("t_alpha", 3.0, -1.0), {}, "threshold: is not positive and finite"),
        (("t_alpha", 3.0), {"max_timesteps": 0}, "levels: is 0"),
        (("d_alpha", 3.0, torch.ones(4)), {}, "threshold per channel"),
    ],
)
def test_impossible_starts(arguments: tuple, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ModelError, match=message):
        LearnedStaircase(*arguments, **options)


def test_nan_and_tracing_say_what_to_do() -> None:
    part = LearnedStaircase("d_alpha", 3.0)
    with torch.no_grad():
        part.step_size.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"learned t: is NaN.*Remedy"):
        part(torch.rand(2, 2))
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), LearnedStaircase("t_alpha", 3.0), torch.nn.Linear(4, 2))
    with pytest.raises(TraceError, match="cannot be traced again"):
        rb.convert(model, rb.QAC(), example=torch.rand(2, 4))
