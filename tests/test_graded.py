"""Neurons that emit several spikes in a step or take spikes back, against slow references of their equations."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor, trunc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rheobase as rb
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.graph.sites import Site
from rheobase.methods import BurstNeuron, GradedNeuron, GroupNeuron, MultiThresholdNeuron, SignedNeuron
from rheobase.neurons import Burst, Graded, MembraneNeuron, MultiThreshold, Signed, set_fusion
from rheobase.neurons.firing import FiringRule
from rheobase.passes import Thresholds

HALF = torch.tensor(0.5)
sixteenths = st.integers(-80, 80).map(lambda k: k / 16)  # exact in float32
trains = st.lists(sixteenths, min_size=1, max_size=12)
magnitudes = st.integers(1, 5)


def emitted(neuron: MembraneNeuron, train: list[float]) -> list[int]:
    """The number of spikes at every step."""
    currents = torch.tensor(train).reshape(-1, 1, 1)
    values, _ = neuron.run(currents, neuron.init((1, 1), currents[0]))
    return [round(k) for k in (values / neuron.threshold).flatten().tolist()]


def reference(train: list[float], theta: float, count: Callable[[Fraction, int], int]) -> list[int]:
    """Integrate, fire and subtract in exact numbers; ``count`` is given u/θ and the net number of spikes before."""
    potential, spikes = Fraction(theta) / 2, list[int]()
    for current in train:
        potential += Fraction(current)
        spikes.append(count(potential / Fraction(theta), sum(spikes)))
        potential -= spikes[-1] * Fraction(theta)
    return spikes


@given(trains, magnitudes, st.sampled_from([0.5, 1.0, 2.0]))
def test_graded(train: list[float], m: int, theta: float) -> None:
    threshold = torch.tensor(theta)
    ours = emitted(Graded(threshold, HALF, magnitude=m), train)
    assert ours == reference(train, theta, lambda x, net: max(min(max(floor(x), -m), m), -net))
    free = emitted(Graded(threshold, HALF, magnitude=m, nonnegative=False), train)
    assert free == reference(train, theta, lambda x, net: min(max(floor(x), -m), m))


@given(trains, st.sampled_from([0.5, 1.0, 2.0]))
def test_signed_with_memory(train: list[float], theta: float) -> None:
    def wang(x: Fraction, net: int) -> int:
        return 1 if x >= 1 else -1 if x <= -1 and net > 0 else 0

    assert emitted(Signed(torch.tensor(theta), HALF), train) == reference(train, theta, wang)


@given(trains, magnitudes)
def test_signed_rounds_to_zero(train: list[float], m: int) -> None:
    ours = emitted(Signed(torch.tensor(1.0), HALF, magnitude=m, nonnegative=False), train)
    assert ours == reference(train, 1.0, lambda x, net: min(max(trunc(x), -m), m))


@given(trains, st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_multi_threshold_fires_the_nearest(train: list[float], m: int, nonnegative: bool) -> None:
    powers = [1, 2, 4, 8][: m.bit_length()]
    alphabet = sorted([0, *powers, *(-k for k in powers)])

    def nearest(x: Fraction, net: int) -> int:
        best = max(alphabet, key=lambda k: (-abs(k - (x - Fraction(1, 2))), k))
        return best if best >= -net or not nonnegative else min(k for k in alphabet if k >= -net)

    ours = emitted(MultiThreshold(torch.tensor(1.0), HALF, magnitude=m, nonnegative=nonnegative), train)
    assert ours == reference(train, 1.0, nearest)


@given(trains, st.integers(1, 6))
def test_a_group_is_a_burst(train: list[float], members: int) -> None:
    def group(x: Fraction, net: int) -> int:  # x in units of the first member's threshold
        return sum(x >= i for i in range(1, members + 1))

    site = Site(name="relu", index=0, shape=(1,), previous=(), next=(), origin="relu")
    neuron = GroupNeuron(members=members).build(site, None)  # type: ignore[arg-type]
    assert isinstance(neuron, Burst)
    assert emitted(neuron, train) == reference(train, 1.0, group)


@given(trains, sixteenths)
def test_the_net_count_is_the_floor_of_the_input_at_every_step(train: list[float], last: float) -> None:
    """As long as no step is clipped, whatever the order; with a memory, as long as the floor is not negative."""
    train = [*train, last]
    m = 100
    accumulated = [sum(train[: t + 1]) + 0.5 for t in range(len(train))]
    free = emitted(Graded(torch.tensor(1.0), HALF, magnitude=m, nonnegative=False), train)
    assert [sum(free[: t + 1]) for t in range(len(train))] == [floor(x) for x in accumulated]
    kept = emitted(Graded(torch.tensor(1.0), HALF, magnitude=m), train)
    assert [sum(kept[: t + 1]) for t in range(len(train))] == [max(floor(x), 0) for x in accumulated]


@given(trains, magnitudes, st.sampled_from([Graded, Signed]))
def test_no_more_is_taken_back_than_was_emitted(train: list[float], m: int, kind: type[Graded]) -> None:
    spikes = emitted(kind(torch.tensor(1.0), HALF, magnitude=m), train)
    assert min(sum(spikes[: t + 1]) for t in range(len(train))) >= 0
    assert max(map(abs, spikes)) <= m


def test_edges_are_where_the_count_rises() -> None:
    for rule in (
        FiringRule((-2, -1, 0, 1, 2)),
        FiringRule((-2, -1, 0, 1, 2), "truncate"),
        FiringRule((-4, -2, 0, 2, 4)),
    ):
        x = torch.linspace(-8, 8, 2049, dtype=torch.float64)
        count = rule(x, torch.tensor(1.0), None)
        rises = (count[1:] - count[:-1]).nonzero().flatten()
        assert [int(count[i + 1] - count[i]) for i in rises] == [rise for _, rise in rule.edges]
        assert all(x[i] <= edge <= x[i + 1] for i, (edge, _) in zip(rises, rule.edges, strict=True))


RULES: dict[str, Callable[[Tensor, Tensor | None], MembraneNeuron]] = {
    "graded": lambda theta, bias: Graded(theta, HALF, bias, magnitude=3),
    "graded, of either sign": lambda theta, bias: Graded(theta, HALF, bias, magnitude=2, nonnegative=False),
    "signed": lambda theta, bias: Signed(theta, HALF, bias),
    "multi-threshold": lambda theta, bias: MultiThreshold(theta, HALF, bias, magnitude=4),
    "burst": lambda theta, bias: Burst(theta, HALF, bias, magnitude=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_compiled_neurons_give_the_same_bits(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    currents = torch.randn(4, 4, 8, 5, 5, generator=g)  # longer trains and other layouts: test_neurons.py
    theta = torch.rand(8, generator=g) + 0.1
    theta[2] = float("inf")
    neuron = RULES[name](theta, torch.randn(4, 8, generator=g))
    start = neuron.init(currents.shape[1:], currents[0])
    with torch.no_grad():
        set_fusion("never")
        plain, state = neuron.run(currents, start)
        set_fusion("always")
        fused, fused_state = neuron.run(currents, start)
        set_fusion("auto")
    assert torch.equal(plain, fused)
    assert all(map(torch.equal, state, fused_state))


@pytest.mark.parametrize("m", [0, -1, 1.5, True, 2048])
@pytest.mark.parametrize("kind", [Graded, Signed, MultiThreshold, Burst])
def test_a_magnitude_is_a_whole_number_from_one(kind: type[MembraneNeuron], m: object) -> None:
    with pytest.raises(RecipeError, match="magnitude"):
        kind(torch.tensor(1.0), HALF, magnitude=m)  # type: ignore[call-arg]
    for part in (GradedNeuron, SignedNeuron, MultiThresholdNeuron, BurstNeuron):
        with pytest.raises(RecipeError, match="magnitude"):
            part(magnitude=m)  # type: ignore[arg-type]


def test_powers_of_two() -> None:
    with pytest.raises(RecipeError, match="power of two"):
        MultiThreshold(torch.tensor(1.0), HALF, magnitude=3)
    with pytest.raises(RecipeError, match="power of two"):
        MultiThresholdNeuron(magnitude=3)


def test_levels_are_within_what_the_alphabet_can_emit(digits_data: Tensor) -> None:
    recipe = rb.Recipe(
        name="own", timesteps=4, neuron=GradedNeuron(magnitude=2), calibration=(Thresholds(method="max", levels=9),)
    )
    net = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    with pytest.raises(CalibrationError, match=r"emits at most 8 spikes in T = 4 .* n = 9 .* n ≤ m · T"):
        rb.convert(net, recipe, calibration=digits_data)
    six = recipe.replace(calibration=(Thresholds(method="max", levels=6),))
    eight = recipe.replace(calibration=(Thresholds(method="max"),))
    coarse, fine = (rb.convert(net, r, calibration=digits_data).neurons[0].threshold for r in (six, eight))
    torch.testing.assert_close(6 * coarse, 8 * fine)


@pytest.fixture
def digits_data() -> Tensor:
    return torch.rand(40, 8, generator=torch.Generator().manual_seed(0))
