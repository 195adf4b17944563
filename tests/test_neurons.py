"""The integrate-and-fire neuron: golden traces, an independent slow reference, and its properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheobase.core.errors import RecipeError
from rheobase.neurons import IntegrateFire, fused
from rheobase.neurons.fused import set_fusion


def fire(currents: list[float], theta: float, potential: float, bias: list[float] | None = None) -> list[float]:
    """The neuron of one cell, through the library."""
    per_step = None if bias is None else torch.tensor(bias).unsqueeze(1)
    neuron = IntegrateFire(torch.tensor(theta), torch.tensor(potential), per_step)
    x = torch.tensor(currents).reshape(-1, 1, 1)
    return neuron.run(x, neuron.init((1, 1), x[0]))[0].flatten().tolist()


@pytest.mark.parametrize(
    ("currents", "theta", "potential", "expected"),
    [
        # u = .5+.6 = 1.1 fires, .1; .7 no; 1.3 fires, .3; .9 no
        ([0.6, 0.6, 0.6, 0.6], 1.0, 0.5, [1.0, 0.0, 1.0, 0.0]),
        # exactly at the threshold it fires
        ([1.0, 1.0], 1.0, 0.0, [1.0, 1.0]),
        ([0.5, 0.5, 0.5, 0.5], 1.0, 0.0, [0.0, 1.0, 0.0, 1.0]),
        # at most one spike a step, what is too much is kept: u = 3, 2.5, 2, 1.5
        ([3.0, 0.5, 0.5, 0.5], 1.0, 0.0, [1.0, 1.0, 1.0, 1.0]),
        # inhibition: u = 2 fires, 1 - 4 = -3, -1, 1 does not reach 2
        ([2.0, -4.0, 2.0, 2.0], 2.0, 0.0, [2.0, 0.0, 0.0, 0.0]),
        # what leaves the site is θ, not 1; V0 = θ/2
        ([0.25, 0.25, 0.25, 0.25], 0.5, 0.5, [0.5, 0.0, 0.5, 0.0]),
    ],
)
def test_golden_traces(currents: list[float], theta: float, potential: float, expected: list[float]) -> None:
    assert fire(currents, theta, potential) == expected


def test_golden_trace_with_a_bias_for_each_step() -> None:
    # u = .5 + .6 - .2 = .9 no; .9 + .6 + .1 = 1.6 fires, .6; .6 + .6 - .3 = .9 no
    assert fire([0.6, 0.6, 0.6], 1.0, 0.5, [0.2, -0.1, 0.3]) == [0.0, 1.0, 0.0]


def slow(currents: torch.Tensor, theta: torch.Tensor, potential: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Plain loops over every neuron, in Python floats (float64)."""
    steps, batch, channels, length = currents.shape
    out = torch.zeros_like(currents)
    for b in range(batch):
        for c in range(channels):
            for i in range(length):
                v = float(potential[c]) * float(theta[c])
                for t in range(steps):
                    v += float(currents[t, b, c, i]) - float(bias[t, c])
                    if v >= float(theta[c]):
                        out[t, b, c, i] = theta[c]
                        v -= float(theta[c])
    return out


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 12))
def test_against_plain_loops(seed: int, steps: int) -> None:
    g = torch.Generator().manual_seed(seed)
    # multiples of 1/64: every sum is exact, so that float32 and float64 agree at ties too
    currents = torch.randint(-128, 192, (steps, 2, 3, 2), generator=g) / 64
    theta = torch.randint(1, 4, (3,), generator=g) / 2
    potential, bias = torch.randint(0, 3, (3,), generator=g) / 2, torch.randint(-32, 32, (steps, 3), generator=g) / 64
    neuron = IntegrateFire(theta, potential, bias)
    out, _ = neuron.run(currents, neuron.init(currents.shape[1:], currents[0]))
    assert torch.equal(out, slow(currents, theta, potential, bias))


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 9), cut=st.integers(0, 9), with_bias=st.booleans())
def test_run_is_repeated_step_and_can_be_interrupted(seed: int, steps: int, cut: int, with_bias: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, 2, 3, 4, generator=g)
    bias = torch.randn(steps, 3, generator=g) if with_bias else None
    neuron = IntegrateFire(torch.rand(3, generator=g) + 0.1, torch.rand((), generator=g), bias)
    start = neuron.init(currents.shape[1:], currents[0])
    whole, end = neuron.run(currents, start)
    state, stepped = start, []
    for t in range(steps):
        spikes, state = neuron.step(currents[t], state, t)
        assert set(spikes.unique().tolist()) <= {0.0, 1.0}
        stepped.append(neuron.emit(spikes))
    assert torch.equal(whole, torch.stack(stepped))
    assert torch.equal(end[0], state[0])
    first, middle = neuron.run(currents[:cut], start)
    rest, _ = neuron.run(currents[cut:], middle, t=min(cut, steps))
    assert torch.equal(whole, torch.cat([first, rest]))


@given(
    z=st.floats(-2, 3, width=32),
    theta=st.floats(0.125, 2, width=32),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    steps=st.integers(1, 16),
)
def test_constant_current_gives_the_clipped_floor(z: float, theta: float, fraction: float, steps: int) -> None:
    """Bu et al. 2022, Theorem 2: count = clip(⌊(Tz + V0)/θ⌋, 0, T); not asked for within rounding of a tie."""
    theta, z = float(torch.tensor(theta)), float(torch.tensor(z))
    exact = (steps * z + fraction * theta) / theta
    if abs(exact - round(exact)) < 1e-3:
        return
    spikes = sum(fire([z] * steps, theta, fraction)) / theta
    assert spikes == pytest.approx(min(max(math.floor(exact), 0), steps))


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 20))
def test_nothing_is_lost(seed: int, steps: int) -> None:
    """Σ I = Σ θs + v[T] − V0, Rueckauer et al. 2017, Eq. 4."""
    g = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, 1, 3, 5, generator=g, dtype=torch.float64)
    neuron = IntegrateFire(torch.rand(3, generator=g, dtype=torch.float64) + 0.1, torch.tensor(0.5))
    start = neuron.init(currents.shape[1:], currents[0])
    out, (end,) = neuron.run(currents, start)
    torch.testing.assert_close(currents.sum(0), out.sum(0) + end - start[0])


def test_an_infinite_threshold_is_silent() -> None:
    neuron = IntegrateFire(torch.tensor([1.0, float("inf")]), torch.tensor(0.5))
    currents = torch.full((3, 1, 2, 4), 100.0)
    out, (potential,) = neuron.run(currents, neuron.init(currents.shape[1:], currents[0]))
    assert torch.equal(out[:, :, 1], torch.zeros(3, 1, 4))
    assert bool(torch.isfinite(potential).all())
    spikes, _ = neuron.step(currents[0], neuron.init(currents.shape[1:], currents[0]), 0)
    assert torch.equal(neuron.emit(spikes)[:, 1], torch.zeros(1, 4))


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan")])
def test_impossible_thresholds_are_refused(theta: float) -> None:
    with pytest.raises(RecipeError, match="must be positive"):
        IntegrateFire(torch.tensor(theta), torch.tensor(0.5))


def test_biases_fix_the_number_of_steps() -> None:
    neuron = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5), torch.zeros(8, 3))
    assert neuron.check_timesteps(8, 8) is None
    assert "T = 8" in str(neuron.check_timesteps(4, 8))


def test_one_bias_for_all_steps_runs_for_any_number() -> None:
    currents = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([0.3, -0.2, 0.0])
    theta, potential = torch.tensor(1.0), torch.tensor(0.5)
    constant, listed = IntegrateFire(theta, potential, bias), IntegrateFire(theta, potential, bias.expand(6, 3))
    start = constant.init(currents.shape[1:], currents[0])
    assert constant.check_timesteps(4, 6) is None
    assert torch.equal(constant.run(currents, start)[0], listed.run(currents, start)[0])
    assert torch.equal(constant.step(currents[0], start, 5)[0], listed.step(currents[0], start, 5)[0])


LAYOUTS = {
    "dense": lambda x: x,
    "channels last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "held": lambda x: x[0].expand(x.shape),
}


def test_a_fusion_that_there_is_not() -> None:
    with pytest.raises(RecipeError, match="fusion: is 'sometimes'"):
        set_fusion("sometimes")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fused_loop_gives_the_same_bits(layout: str, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "CHUNK", 3)
    g = torch.Generator().manual_seed(0)
    currents = LAYOUTS[layout](torch.randn(5, 4, 8, 5, 5, generator=g))  # 3 + 2 steps: two pieces
    theta = torch.rand(8, generator=g) + 0.1
    theta[2] = float("inf")
    neuron = IntegrateFire(theta, torch.tensor(0.5), torch.randn(5, 8, generator=g) if with_bias else None)
    start = neuron.init(currents.shape[1:], currents[0])
    runs = [("never", False), ("always", False)]
    if layout != "held":  # all steps are one memory there
        runs += [("never", True), ("always", True)]
    results = []
    with torch.no_grad():
        for mode, overwrite in runs:
            set_fusion(mode)  # type: ignore[arg-type]
            given = currents.clone() if overwrite else currents
            out, (potential,) = neuron.run(given, start, overwrite=overwrite)
            # a compiled train of more than one piece is not written over: a later piece may fail to compile
            assert (out.data_ptr() == given.data_ptr()) == (overwrite and mode == "never")
            results.append((out, potential))
            if overwrite:
                sub_batch = currents[:3].clone()
                out, _ = neuron.run(sub_batch, start, overwrite=True)
                assert out.data_ptr() == sub_batch.data_ptr()
                assert torch.equal(out, results[0][0][:3])
    set_fusion("auto")
    for out, potential in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(potential, results[0][1])
    assert results[1][0].stride()[1:] == currents.stride()[1:]


def test_each_rule_is_worth_its_own_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a comparison of many kinds of neurons compiles each of them, after the first has run for long."""
    monkeypatch.setattr(fused, "WARM_UP", 100)
    policy = fused._Policy()
    assert not policy.wants_compiled("one", 90)
    assert not policy.wants_compiled("other", 90)
    assert policy.wants_compiled("one", 20)
    assert not policy.wants_compiled("one", 1000, gains=False)
    policy.mode = "always"
    assert policy.wants_compiled("one", 1, gains=False)


def test_a_broken_compiler_is_said_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    from rheobase.core.errors import RheobaseWarning

    policy = fused._Policy()
    policy.mode = "always"
    monkeypatch.setattr(fused, "_policy", policy)

    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    neuron = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5))
    currents = torch.full((2, 1, 1), 0.6)
    with torch.no_grad(), pytest.warns(RheobaseWarning, match=r"no C\+\+ compiler"):
        out, _ = neuron.run(currents, neuron.init((1, 1), currents[0]))
    assert out.flatten().tolist() == [1.0, 0.0]
