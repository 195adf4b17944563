"""Neurons that wait for their whole input: PASC and constant current, against Algorithm 1 and activations."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheobase.activations.activation import INITIAL_POTENTIAL, Rounding
from rheobase.activations.staircase import staircase
from rheobase.core.errors import RecipeError
from rheobase.neurons import ConstantCurrent, IntegrateFire, Pasc
from rheobase.signals.signal import Constant, TimeSeries

ROUNDINGS: tuple[Rounding, ...] = ("round", "floor", "ceil")


def column(values: list[float]) -> torch.Tensor:
    """A train of one neuron, [T, 1, 1]."""
    return torch.tensor(values).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("currents", "levels", "expected"),
    [
        # θ* = 1/4, sums in units of θ*: 4·mean. [3, -1, 0]: mean 2/3 -> 2.67 + ½ -> 3 spikes, first ones first
        ([3.0, -1.0, 0.0], 4, [1.0, 1.0, 1.0, 0.0]),
        # spikes of stage 1 that the sum does not bear are taken back: [4, -4] -> 0
        ([4.0, -4.0], 4, [0.0, 0.0, 0.0, 0.0]),
        # more than θ: clipped; less than nothing: silent
        ([9.0], 2, [1.0, 1.0]),
        ([-9.0, 1.0], 2, [0.0, 0.0]),
        # the middle of a step rounds up: 2·¼ + ½ = 1
        ([0.25, 0.25], 2, [1.0, 0.0]),
    ],
)
def test_pasc_worked_out_by_hand(currents: list[float], levels: int, expected: list[float]) -> None:
    neuron = Pasc(torch.tensor(1.0), levels)
    assert neuron.fire(TimeSeries(column(currents)), levels).flatten().tolist() == expected


@pytest.mark.parametrize(
    ("z", "steps", "rounding", "expected"),
    [
        # u = .5+.4 = .9 no; 1.3 fires, .3; .7 no; 1.1 fires
        (0.4, 4, "round", [0.0, 1.0, 0.0, 1.0]),
        # V0 = 0: .5 no; 1 fires at the threshold
        (0.5, 4, "floor", [0.0, 1.0, 0.0, 1.0]),
        # V0 = θ, fires only above: 1.25 fires, .25; .5; .75; 1.0 does not: ⌈4·.25⌉ = 1
        (0.25, 4, "ceil", [1.0, 0.0, 0.0, 0.0]),
        (0.0, 3, "ceil", [0.0, 0.0, 0.0]),
    ],
)
def test_constant_current_worked_out_by_hand(z: float, steps: int, rounding: Rounding, expected: list[float]) -> None:
    neuron = ConstantCurrent(torch.tensor(1.0), steps, rounding)
    assert neuron.fire(Constant(torch.tensor([[z]])), steps).flatten().tolist() == expected


def algorithm_1(currents: list[int], before: int, levels: int) -> list[int]:
    """PASCAL's Algorithm 1 as printed (membrane carried forward), in exact arithmetic.

    Potentials in units of θ*/(2 L'), so that everything is whole: the spikes of step t bring currents[t] of those.
    """
    threshold = 2 * before
    membrane, count = before, 0  # θ*/2
    for current in currents:
        membrane += current
        if membrane >= threshold:
            membrane, count = membrane - threshold, count + 1
    for _ in range(max(before, levels) - 1):
        if membrane >= threshold:
            membrane, count = membrane - threshold, count + 1
        elif membrane < 0:
            membrane, count = membrane + threshold, count - 1
    remaining, out = min(max(count, 0), levels), []
    for _ in range(levels):
        out.append(1 if remaining > 0 else 0)
        remaining -= out[-1]
    return out


@given(before=st.integers(1, 16), levels=st.integers(1, 16), data=st.data())
def test_pasc_is_algorithm_1_and_qcfs(before: int, levels: int, data: st.DataObject) -> None:
    """In whole numbers: the printed algorithm, the library's neuron, and the activation of the sum (Theorem 3.5)."""
    bound = 3 * before * max(before, levels)
    currents = data.draw(st.lists(st.integers(-bound, bound), min_size=before, max_size=before))
    expected = algorithm_1(currents, before, levels)
    # the mean current in units of θ* is Σ currents/(2L') = L·z/θ
    total = Fraction(sum(currents), 2 * before)
    assert sum(expected) == min(max(math.floor(total + Fraction(1, 2)), 0), levels)
    # θ = L, so that θ* = 1; a train whose mean is total: float64 has all of it
    train = torch.tensor(currents, dtype=torch.float64).reshape(-1, 1, 1) / 2
    neuron = Pasc(torch.tensor(float(levels), dtype=torch.float64), levels)
    assert (neuron.fire(TimeSeries(train), levels) / levels).flatten().tolist() == expected


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_the_printed_algorithm_in_floats(levels: int) -> None:
    """Stage 3 takes θ* from a float until nothing is left: the last spike is often lost. Counted, none is."""
    g = torch.Generator().manual_seed(0)
    threshold = torch.rand(20_000, generator=g) * 2 + 0.1
    step = threshold / levels
    z = threshold * (torch.rand(20_000, generator=g) * 1.2 - 0.1)
    membrane, s, spikes = step / 2, torch.zeros(20_000), torch.zeros(20_000)
    for _ in range(levels):
        fired = (membrane + z / levels >= step) * step
        membrane, s = membrane + z / levels - fired, s + fired
    for _ in range(levels - 1):
        fired = (membrane >= step) * step - (membrane < 0) * step
        membrane, s = membrane - fired, s + fired
    counted = (s / step).round().clamp(0, levels)
    for _ in range(levels):
        fired = s >= step
        spikes, s = spikes + fired, s - fired * step
    count = (z * (levels / threshold) + 0.5).floor().clamp(0, levels)
    assert float((spikes != count).float().mean()) > 0.1
    assert float((counted != count).float().mean()) < 1e-3  # stages 1 and 2 are right
    ours = Pasc(threshold, levels).fire(Constant(z.unsqueeze(0)), levels)
    assert torch.equal((ours != 0).sum(0)[0].float(), count)


@pytest.mark.exhaustive
def test_pasc_on_ten_million_integer_cases() -> None:
    """Every pair of levels 1..16: no mismatch with the count in whole numbers; in float32 at most 1 in a million."""
    g = torch.Generator().manual_seed(0)
    cases = wrong = wrong_float = 0
    for before in range(1, 17):
        for levels in range(1, 17):
            n = 40_000
            currents = torch.randint(-3 * before, 6 * before, (before, n, 1), generator=g)
            count = ((2 * currents.sum(0) + before) // (2 * before)).clamp(0, levels)
            for dtype in (torch.float64, torch.float32):
                # θ = L: a step is worth 1, currents are whole, and the mean of L' of them is rounded
                neuron = Pasc(torch.tensor(float(levels), dtype=dtype), levels)
                got = (neuron.fire(TimeSeries(currents.to(dtype)), levels) != 0).sum(0)
                mismatches = int((got != count).sum())
                if dtype == torch.float64:
                    wrong += mismatches
                else:
                    wrong_float += mismatches
            cases += n
    assert cases >= 10_000_000
    assert wrong == 0
    assert wrong_float <= cases / 1e6


@pytest.mark.parametrize("rounding", ROUNDINGS)
@given(seed=st.integers(0, 2**31), levels=st.integers(1, 16), before=st.integers(1, 16))
def test_windows_emit_the_activation(rounding: Rounding, seed: int, levels: int, before: int) -> None:
    """Any train, any θ: counts are the activation of the mean; the closed form has its bits."""
    g = torch.Generator().manual_seed(seed)
    theta = torch.rand(3, generator=g, dtype=torch.float64) + 0.2
    train = TimeSeries(2 * torch.randn(before, 40, 3, generator=g, dtype=torch.float64))
    z = train.mean()
    a = staircase(z, threshold=theta, levels=levels, rounding=rounding)
    for neuron in (Pasc(theta, levels, rounding), ConstantCurrent(theta, levels, rounding)):
        emitted = neuron.fire(train, levels)
        assert emitted.shape == (levels, 40, 3)
        assert bool(((emitted == 0) | (emitted == theta)).all())
        torch.testing.assert_close(emitted.mean(0), a)
        assert torch.equal(neuron.rate(z, levels), a)
        torch.testing.assert_close(neuron.fire(Constant(z), levels).mean(0), a)
        written = z.clone()
        assert neuron.rate(written, levels, overwrite=True).data_ptr() == written.data_ptr()


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 32), fraction=st.sampled_from([0.0, 0.25, 0.5]))
def test_constant_current_is_integrate_and_fire(seed: int, steps: int, fraction: float) -> None:
    """Spike by spike the classical neuron under the same current, in float64, away from ties."""
    g = torch.Generator().manual_seed(seed)
    theta = torch.rand(3, generator=g, dtype=torch.float64) + 0.2
    z = torch.randn(50, 3, generator=g, dtype=torch.float64)
    classical = IntegrateFire(theta, torch.tensor(fraction, dtype=torch.float64))
    currents = z.expand(steps, -1, -1)
    expected, _ = classical.run(currents, classical.init(z.shape, z))
    ours = ConstantCurrent(theta, steps, initial_potential=fraction).fire(Constant(z), steps)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("levels", range(1, 17))
def test_rounding_up_at_whole_numbers(levels: int) -> None:
    """QVM's ceil neuron fails at every whole zL/θ if it fires on ``>=``: silence would fire. Ours does not."""
    whole = torch.arange(-levels, 2 * levels + 1, dtype=torch.float32).reshape(-1, 1)
    theta = torch.tensor(float(levels))
    for neuron in (ConstantCurrent(theta, levels, "ceil"), Pasc(theta, levels, "ceil")):
        counts = (neuron.fire(Constant(whole), levels) != 0).sum(0).float()
        assert torch.equal(counts, whole.clamp(0, levels))


def test_v0_of_each_rounding() -> None:
    assert INITIAL_POTENTIAL == {"floor": 0.0, "round": 0.5, "ceil": 1.0}
    z = torch.tensor([[0.3]])
    emitted = [float(ConstantCurrent(torch.tensor(1.0), 4, r).fire(Constant(z), 4).mean()) for r in ROUNDINGS]
    assert emitted == [0.25, 0.25, 0.5]  # 1.2 -> 1, 1, 2


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Pasc, ConstantCurrent])
def test_impossible_thresholds(kind: type[Pasc] | type[ConstantCurrent], theta: float) -> None:
    with pytest.raises(RecipeError, match="positive and finite"):
        kind(torch.tensor(theta), 4)


def test_impossible_steps() -> None:
    with pytest.raises(RecipeError, match="timesteps"):
        Pasc(torch.tensor(1.0), 0)
    with pytest.raises(RecipeError, match="step by step"):
        Pasc(torch.tensor(1.0), 2).step(torch.zeros(1, 1), (), 0)


def test_which_numbers_of_steps_they_run_for() -> None:
    assert Pasc(torch.tensor(1.0), 4).check_timesteps(8, 4) is not None
    assert Pasc(torch.tensor(1.0), 4).steps(4, 8) == 4
    neuron = ConstantCurrent(torch.tensor(1.0), 4)
    assert neuron.steps(16, 8) == 8
    assert neuron.check_timesteps(16, 8) is None
    assert "0.5" in str(neuron.check_timesteps(1, 8))
