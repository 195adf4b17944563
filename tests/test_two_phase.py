"""SRP, COS and TPP against slow references; the training-side baselines QCFS and SlipReLU; RMP."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.activations import QCFS, SlipReLU
from rheobase.core.errors import RecipeError
from rheobase.network import Shift, Silence
from rheobase.neurons import ConstantCurrent, Graded, IntegrateFire, Probabilistic
from rheobase.signals import Constant, TimeSeries
from rheobase.zoo import digits as zoo_digits

CURRENTS = st.lists(st.floats(-2, 2).map(lambda x: round(x, 3)), min_size=1, max_size=6)
THETA = 0.8


def plain(currents: list[float], potential: float, steps: int) -> tuple[list[int], float]:
    """Integrate and fire, one number at a time; a shorter input is repeated."""
    spikes = []
    for t in range(steps):
        potential += currents[t % len(currents)]
        spikes.append(int(potential >= THETA))
        potential -= THETA * spikes[-1]
    return spikes, potential


def emitted(protocol: Silence | Shift, currents: list[float], steps: int) -> list[int]:
    """What a protocol emits for one neuron."""
    values = torch.tensor(currents, dtype=torch.float64).reshape(-1, 1, 1)
    neuron = IntegrateFire(torch.tensor(THETA, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    return protocol.emit(neuron, TimeSeries(values), steps).counts.int().flatten().tolist()


@given(CURRENTS, st.integers(1, 6), st.integers(1, 6))
def test_silencing(currents: list[float], tau: int, steps: int) -> None:
    _, rest = plain(currents, THETA / 2, tau)
    if math.isclose(rest, 1e-3 * THETA, abs_tol=1e-9):
        return
    expected = plain(currents, THETA / 2, steps)[0] if rest > 1e-3 * THETA else [0] * steps
    assert emitted(Silence(steps=tau), currents, steps) == expected


@given(CURRENTS, st.integers(1, 6), st.integers(1, 4))
def test_shifting(currents: list[float], steps: int, rounds: int) -> None:
    start = potential = THETA / 2
    for _ in range(rounds):
        spikes, end = plain(currents, potential, steps)
        missing = (start + end - potential) / THETA
        if abs(missing - round(missing)) < 1e-9:
            return  # a tie that rounding decides
        count = sum(spikes)
        potential += THETA * (min(max(count + math.floor(missing), 0), steps) - count)
    assert emitted(Shift(rounds=rounds), currents, steps) == plain(currents, potential, steps)[0]


@given(st.lists(st.floats(-1, 1.5), min_size=1, max_size=8), st.integers(2, 8))
def test_shifting_brings_the_count_closer_to_the_floor(currents: list[float], steps: int) -> None:
    """A shift of whole spikes can make a neuron fire earlier or later; one round is enough for any order of input."""
    row = [currents[t % len(currents)] for t in range(steps)]
    wanted = min(max(math.floor(0.5 + sum(row) / THETA), 0), steps)
    before = abs(sum(plain(row, THETA / 2, steps)[0]) - wanted)
    after = abs(sum(emitted(Shift(rounds=4), row, steps)) - wanted)
    assert after <= max(before, 1)


@given(st.floats(0, 1), st.integers(1, 8), st.integers(0, 2**31))
def test_probabilistic_counts(rate: float, steps: int, seed: int) -> None:
    neuron = Probabilistic(torch.tensor(THETA), steps, seed)
    current = torch.full((2, 1, 50), rate * THETA)
    spikes = neuron.fire(Constant(current), steps) / neuron.threshold
    count = spikes.sum(0)
    assert bool(((count - steps * rate).abs() < 1 + 1e-5).all())  # the floor, or one more
    assert torch.equal(count[0], count[1])  # the same numbers for every image
    theirs = torch.rand(steps, 1, 50, generator=torch.Generator().manual_seed(seed))
    rest, expected = torch.full((1, 50), steps * rate), []
    for t in range(steps):
        p = (rest / (steps - t)).clamp(0, 1)
        if bool(((theirs[t] - p).abs() < 1e-5).any()):
            return  # a tie that rounding decides
        expected.append((theirs[t] < p).float())
        rest = rest - expected[-1]
    torch.testing.assert_close(spikes[:, 0], torch.stack(expected))


def test_the_mean_of_probabilistic_spikes() -> None:
    """By hand for T = 2: of 0.5 spikes, 1 − ¾ · ½ fire; of 1.5, 1 and ¾ · ½."""
    neuron = Probabilistic(torch.tensor(THETA), 2, 1)
    current = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).mul(THETA).reshape(1, 5, 1).expand(1, 5, 20_000)
    counts = neuron.fire(Constant(current), 2).sum(0)[0].double() / THETA
    expected = torch.tensor([0, 1 - 0.75 * 0.5, 1, 1 + 0.75 * 0.5, 2]).double()
    torch.testing.assert_close(counts.mean(1), expected, rtol=0, atol=5 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("method", ["SRP", "COS", "TPP"])
def test_latency_counts_every_phase(method: str) -> None:
    images = grid_images("MLP")
    snn = rb.convert(networks.build("MLP"), rb.Recipe.from_method(method, 4), calibration=images)
    phases = {"SRP": 4 + 4, "COS": 5 * 4, "TPP": 4}[method]  # of TPP the first phase is the arrival of the input
    found = rb.latency(snn)
    assert found.final == phases * len(found.critical_path)
    assert not snn.streams
    *_, (last, logits) = snn.stream(images)  # the whole simulation, before the first answer
    assert last == 4
    snn.execution = "steps"
    torch.testing.assert_close(snn(images), logits)


def test_a_seed_is_part_of_the_record() -> None:
    images = grid_images("MLP")
    one, same, other = (
        rb.convert(networks.build("MLP"), rb.TPP(timesteps=4, seed=seed), calibration=images) for seed in (1, 1, 2)
    )
    assert one.recipe["neuron"]["seed"] == 1
    assert torch.equal(one(images), same(images))
    assert not torch.equal(one(images), other(images))
    assert torch.equal(torch.cat([one(part) for part in images.split(3)]), one(images))
    assert one.neurons[0].seed != one.neurons[1].seed


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=9), st.integers(1, 8), st.floats(0, 1))
def test_slip_relu(values: list[float], levels: int, slip: float) -> None:
    z = torch.tensor([values], dtype=torch.float64)
    mixed, quantised = SlipReLU(levels, THETA, slip).double(), QCFS(levels, THETA).double()
    theta = mixed.threshold.detach()
    expected = slip * z.clamp(min=0).clamp(max=float(theta)) + (1 - slip) * quantised(z)
    torch.testing.assert_close(mixed(z), expected)
    attributes, tensors = mixed.site()
    found = rb.activations.ACTIVATIONS["slip"].apply(z, **{**attributes, **tensors})
    torch.testing.assert_close(found, expected.detach())


def test_the_gradient_of_slip_relu() -> None:
    z = torch.tensor([[-1.0, 0.3, 2.0]], requires_grad=True)
    part = SlipReLU(4, 1.0, slip=0.25)
    (part(z) * torch.tensor([[1.0, 10.0, 100.0]])).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.tensor([[0.0, 10.0, 0.0]]))
    assert part.threshold.grad is not None
    torch.testing.assert_close(part.threshold.grad, torch.tensor(100 + 10 * 0.75 * (0.25 - 0.3)))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [rb.methods.QCFS(timesteps=4, levels=4), rb.SlipReLU(timesteps=4, levels=4)])
def test_training_side_baselines(recipe: rb.Recipe) -> None:
    images, labels = zoo_digits.digits().train
    net = zoo_digits.train((images, labels), epochs=2, seed=0)
    quantised = rb.quantise(net, recipe, calibration=images)
    trained = rb.train(quantised, (images, labels), rb.Training(epochs=1, learning_rate=0.05))
    snn = rb.convert(trained.model, recipe, calibration=images)
    found = rb.evaluate(snn, zoo_digits.digits().test)
    assert found.ann_accuracy is not None
    assert found.ann_accuracy > 0.9
    assert found.rows[-1].accuracy is not None
    assert found.rows[-1].accuracy > 0.8
    assert [site.name for site in snn.sites]
    for neuron, site in zip(snn.neurons, snn.ann.sites, strict=True):
        torch.testing.assert_close(neuron.threshold, snn.ann.tensor(site.parameters["threshold"]))
    with pytest.raises(rb.RheobaseError, match="quantise and train"):
        rb.convert(net, recipe, calibration=images)


def test_rmp_is_soft_reset_with_maxima() -> None:
    recipe = rb.RMP(timesteps=4)
    assert recipe.replace(name="RateCoding") == rb.RateCoding(4, "max", "layer", initial_potential=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rb.SRP(rehearsal=0), "SRP: rehearsal"),
        (lambda: rb.COS(rounds=0), "COS: rounds"),
        (lambda: rb.TPP(seed=None), "TPP: seed"),
        (lambda: rb.TPP(seed=-1), "seed"),
        (lambda: rb.SlipReLU(slip=1.5), "slip"),
        (lambda: Probabilistic(torch.tensor(1.0), 4, seed=-1), "seed"),
        (
            lambda: Silence().check(ConstantCurrent(torch.tensor(1.0), 4), "act"),
            "act: has ConstantCurrent",
        ),
        (
            lambda: Silence().check(Graded(torch.tensor(1.0), torch.tensor(0.5), nonnegative=False), "act"),
            "cannot be silenced",
        ),
    ],
)
def test_bad_input(make: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make()


def test_a_neuron_that_waits_has_no_phases() -> None:
    recipe = rb.ParallelConversion(timesteps=4).replace(name="phases", protocol=Shift())
    with pytest.raises(RecipeError, match="wait for their whole input and have no phases"):
        rb.convert(networks.build("MLP"), recipe, calibration=grid_images("MLP"))


def test_silent_channels() -> None:
    theta, current = torch.tensor([torch.inf, 1.0]), torch.ones(3, 2)
    neuron: Tensor | Any = IntegrateFire(theta, torch.tensor(0.5))
    for protocol in (Silence(), Shift()):
        spikes = protocol.emit(neuron, Constant(current), 4)
        assert spikes.values[:, :, 0].eq(0).all()
        assert spikes.values[:, :, 1].eq(1).all()
