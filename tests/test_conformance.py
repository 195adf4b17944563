"""Every part goes through the conformance tests; the tests themselves find what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import own_neurons
import rheobase as rb
from own_neurons import Burst, Ternary
from rheobase.neurons import Alphabet, ConstantCurrent, IntegrateFire, Neuron, ParallelIF, Pasc, State

pytestmark = pytest.mark.usefixtures("own_parts")

HALF = torch.tensor(0.5)
THETA = torch.tensor([0.5, 1.25, 2.0])
BIAS = torch.tensor([0.1, -0.2, 0.0])

NEURONS: dict[str, Callable[[], Neuron]] = {
    "integrate_fire": lambda: IntegrateFire(torch.tensor(0.8), HALF),
    "integrate_fire by channel": lambda: IntegrateFire(THETA, torch.tensor([0.0, 0.5, 1.0]), BIAS),
    "integrate_fire, a bias for each step": lambda: IntegrateFire(
        THETA, HALF, torch.linspace(-0.3, 0.3, 18).view(6, 3)
    ),
    "integrate_fire, a silent channel": lambda: IntegrateFire(torch.tensor([0.5, torch.inf, 2.0]), HALF),
    "integrate_fire, V0 above θ": lambda: IntegrateFire(THETA, torch.tensor(1.5)),
    "constant_current": lambda: ConstantCurrent(torch.tensor(0.8), 6),
    "constant_current, ceil": lambda: ConstantCurrent(THETA, 6, "ceil"),
    "constant_current, V0 below 0": lambda: ConstantCurrent(THETA, 6, "round", -0.75),
    "pasc": lambda: Pasc(THETA, 6),
    "pasc, floor": lambda: Pasc(torch.tensor(0.8), 6, "floor"),
    "parallel": lambda: ParallelIF(torch.tensor(0.8), 6),
    "parallel, calibrated": lambda: ParallelIF(THETA, 6, 0.5, BIAS, 0.1 * THETA, 0.2 * BIAS),
    "parallel, a silent channel, first": lambda: ParallelIF(torch.tensor([0.5, torch.inf, 2.0]), 6, order="first"),
    "burst": lambda: Burst(THETA, HALF),
    "burst, biased": lambda: Burst(THETA, HALF, BIAS),
    "ternary": lambda: Ternary(THETA, HALF),
    "ternary, a silent channel": lambda: Ternary(torch.tensor([0.5, torch.inf, 2.0]), HALF),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons(name: str) -> None:
    own_neurons.register()
    rb.testing.check_neuron(NEURONS[name]())


class Outside(Burst):
    """Says that it emits one spike at most."""

    alphabet = Alphabet.upto(1)


class Forgets(IntegrateFire):
    """Steps otherwise than it runs."""

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        return super().step(2 * current, state, t)


class WritesOver(IntegrateFire):
    """Changes its result when it may write over the currents."""

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        return super().run(currents + 0.5 if overwrite else currents, state, t)


class Mixes(IntegrateFire):
    """Lets the images of a batch see one another."""

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        return super().run(currents + currents.mean(1, keepdim=True), state, t)

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        return super().step(current + current.mean(0, keepdim=True), state, t)


class Promises(IntegrateFire):
    """Declares a response that it does not have."""

    def capacity(self, steps: int) -> tuple[int, int]:
        return 0, 2 * steps


@pytest.mark.parametrize(
    ("neuron", "problem"),
    [
        (Outside, "outside its alphabet"),
        (Forgets, "repeated steps emit something else|makes other spikes"),
        (WritesOver, "writes over its currents"),
        (Mixes, "alone than in its batch|makes other spikes"),
        (Promises, "the response is not what it emits"),
    ],
)
def test_a_neuron_that_breaks_its_promise_is_found(neuron: type[Neuron], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        rb.testing.check_neuron(neuron(THETA, HALF))
