"""Every part goes through the conformance tests; the tests themselves find what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import networks
import own_neurons
import rheobase as rb
from conftest import grid_images
from own_neurons import Burst, Ternary
from rheobase import neurons
from rheobase.activations import Activation, Bounds, LearnedStaircase, QuantisedActivation, Rounding, Staircase
from rheobase.activations.staircase import staircase
from rheobase.core.errors import RecipeError, TraceError
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods import ActivationPart
from rheobase.methods.activation_part import check_trained
from rheobase.neurons import Alphabet, ConstantCurrent, IntegrateFire, Neuron, ParallelIF, Pasc, State
from rheobase.passes import CalibrationData, CalibrationPass, Changes
from rheobase.passes.statistics import maxima

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
    "temporal_switch": lambda: neurons.TemporalSwitch(torch.tensor([0.5, torch.inf, 2.0]), 6),
    "probabilistic": lambda: neurons.Probabilistic(torch.tensor([0.5, torch.inf, 2.0]), 6, seed=3),
    "graded": lambda: neurons.Graded(torch.tensor([0.5, torch.inf, 2.0]), HALF, magnitude=2),
    "graded, biased": lambda: neurons.Graded(THETA, HALF, BIAS),
    "graded, of either sign": lambda: neurons.Graded(THETA, HALF, magnitude=3, nonnegative=False),
    "signed": lambda: neurons.Signed(THETA, HALF),
    "signed, of either sign": lambda: neurons.Signed(THETA, HALF, magnitude=2, nonnegative=False),
    "multi-threshold": lambda: neurons.MultiThreshold(THETA, HALF, magnitude=4),
    "multi-threshold, of either sign": lambda: neurons.MultiThreshold(THETA, HALF, magnitude=8, nonnegative=False),
    "bursts": lambda: neurons.Burst(THETA, HALF, torch.linspace(-0.3, 0.3, 18).view(6, 3), magnitude=2),
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

    def count(self, potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
        return (potential / threshold).floor().clamp(0, 3)


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
        (Forgets, "repeated steps|gives other spikes"),
        (WritesOver, "overwrite=True"),
        (Mixes, "alone than in its batch|gives other spikes"),
        (Promises, "differs from the response"),
    ],
)
def test_a_neuron_that_breaks_its_promise_is_found(neuron: type[Neuron], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        rb.testing.check_neuron(neuron(THETA, HALF))


# -- activations --------------------------------------------------------------------------------------------------


class Halves(QuantisedActivation):
    """A quantiser from outside: as many levels as powers of two fit below a trained saturation, rounded down."""

    rounding: Rounding = "floor"

    def __init__(self, bits: int, saturation: float) -> None:
        super().__init__()
        self.bits = bits
        self.log_saturation = nn.Parameter(torch.tensor(saturation).log())

    @property
    def levels(self) -> int:  # type: ignore[override]
        return 2**self.bits - 1

    @property
    def saturation(self) -> Tensor:
        return self.log_saturation.exp()

    def forward(self, z: Tensor) -> Tensor:
        theta = self.saturation
        a = staircase(z.detach(), threshold=theta.detach(), levels=self.levels, rounding="floor")
        line = torch.minimum(z.relu(), theta)
        return line + (a - line).detach()

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class HalvesActivation(ActivationPart):
    """Halves at every site."""

    kind: Literal["halves"] = "halves"
    bits: int = 2

    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, QuantisedActivation]:
        largest = maxima(graph, images, "layer")
        return {site.name: Halves(self.bits, float(value)) for site, value in zip(sites, largest, strict=True)}

    def check(self, sites: Sequence[Site]) -> None:
        check_trained(sites, "floor")


ACTIVATIONS: dict[str, Callable[[], QuantisedActivation]] = {
    "qcfs": lambda: rb.QCFS(levels=4, threshold=1.5),
    "qcfs by channel": lambda: rb.QCFS(levels=3, threshold=THETA),
    "floor": lambda: Staircase(5, 0.7, "floor"),
    "ceil": lambda: Staircase(5, 0.7, "ceil"),
    "learned t, α": lambda: LearnedStaircase("t_alpha", 3.4, 1.2),
    "learned n, α": lambda: LearnedStaircase("n_alpha", 3.0, THETA),
    "learned d, α": lambda: LearnedStaircase("d_alpha", 4.0, 0.8),
    "learned n, d": lambda: LearnedStaircase("n_d", 4.0, 0.8),
    "from outside": lambda: Halves(2, 1.3),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    rb.testing.check_activation(ACTIVATIONS[name]())


class Says(rb.QCFS):
    """Another site than it computes."""

    def site(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        attributes, tensors = super().site()
        return {**attributes, "rounding": "floor"}, tensors


class Stuck(rb.QCFS):
    """No gradient."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).detach() + 0 * z


@pytest.mark.parametrize(("activation", "problem"), [(Says, "different values"), (Stuck, "gradient")])
def test_an_activation_that_breaks_its_promise_is_found(activation: type[rb.QCFS], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        rb.testing.check_activation(activation(levels=4, threshold=1.5))


@pytest.mark.slow
def test_an_activation_from_outside_is_trained_and_converted(tmp_path: Path) -> None:
    rb.register(HalvesActivation)
    neuron = rb.methods.ConstantCurrentNeuron()
    recipe = rb.Recipe(name="halves", timesteps=None, activation=HalvesActivation(bits=2), neuron=neuron)
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
    images, labels = grid_images("OptionAResNet"), torch.arange(20) % 5
    network = rb.quantise(networks.build("OptionAResNet"), recipe, calibration=images)
    assert all(type(part) is Halves for part in network.activations.values())
    before = {name: part.saturation.item() for name, part in network.activations.items()}
    settings = rb.Training(epochs=2, learning_rate=0.05, batch_size=10)
    trained = rb.train(network, (images, labels), settings, validation=None).model
    assert any(part.saturation.item() != before[name] for name, part in trained.activations.items())
    snn = rb.convert(trained, recipe)
    assert {site.levels for site in snn.sites} == {3}
    torch.testing.assert_close(snn(images), trained.eval()(images).detach(), atol=1e-4, rtol=1e-4)
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "net"))(images), snn(images))
    with pytest.raises(RecipeError, match="with_timesteps"):
        recipe.with_timesteps(4)


@torch.library.custom_op("conformance::log2_relu", mutates_args=())
def log2_relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x.clamp(2.0**-6, 1.0).log2().round().exp2(), 0.0)


@log2_relu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Log2ReLU(Activation):
    """Powers of two up to 1: an activation that is no staircase of equal steps."""

    kind = "log2_relu"
    traced_from = ("conformance::log2_relu",)

    def apply(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        return torch.where(x > 0, x.clamp(2.0**-6, 1.0).log2().round().exp2(), 0.0)

    def bounds(self) -> Bounds:
        return Bounds(upper=1.0)


class Log2Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.ops.conformance.log2_relu(self.first(x)))


@pytest.mark.slow
def test_an_activation_of_another_shape_is_traced_and_converted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, images = Log2Net().eval(), torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    with pytest.raises(TraceError, match="log2_relu"):
        rb.convert(net, rb.RateCoding(timesteps=4), calibration=images)
    rb.register(Log2ReLU)
    rb.register(Log2ReLU)  # the same class again, as in a notebook
    snn = rb.convert(net, rb.RateCoding(timesteps=64, threshold="saturation"), calibration=images)
    assert snn.sites[0].upper == 1.0
    assert torch.equal(snn.ann(images), net(images).detach())
    assert float(snn.neurons[0].threshold.max()) == 1.0
    found = rb.diagnose(snn, images).rows[0]
    assert sum(term.mean for term in found.terms.values()) == pytest.approx(found.error.mean, abs=1e-6)
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "net"))(images), snn(images))
    with pytest.raises(RecipeError, match="not a quantised activation"):
        rb.convert(net, rb.QVM(timesteps=4), calibration=images)

    class Again(Log2ReLU):
        kind = "again"

    with pytest.raises(RecipeError, match=r"'conformance::log2_relu' is taken by .*Log2ReLU"):
        rb.register(Again)


# -- passes -------------------------------------------------------------------------------------------------------

PASSES: dict[str, tuple[rb.Recipe, CalibrationPass]] = {
    part.kind: (recipe, part)
    for recipe, part in (
        (rb.Recipe(name="bare", timesteps=3), rb.passes.Thresholds(method="max")),
        (rb.RateCoding(timesteps=3), rb.passes.ScaleThresholds(images=8, sweeps=1)),
        (rb.RateCoding(timesteps=3), rb.passes.LocalThresholdBalancing(images=8, rounds=2)),
        (rb.Burst(timesteps=3, levels=3), rb.passes.FiringSearch(magnitudes=(1, 2), images=8)),
        (rb.RateCoding(timesteps=3), rb.passes.ShiftCurrent()),
        (rb.RateCoding(timesteps=3), rb.passes.BiasCorrection(images=8)),
        (rb.RateCoding(timesteps=3), rb.passes.PotentialCorrection(images=8)),
        (rb.RateCoding(timesteps=3), rb.passes.WeightCalibration(images=8, iterations=3, learning_rate=1e-3)),
        (rb.Graded(timesteps=3, magnitude=1, iterations=0), rb.passes.WeightRegression(rounds=1)),
        (rb.RateCoding(timesteps=3), rb.passes.TemporalBias(batch_size=8, iterations=2, updates=3)),
        (rb.RateCoding(timesteps=3), rb.passes.SurrogateCalibration(epochs=1, batch_size=8)),
        (rb.RateCoding(timesteps=3), rb.passes.ThroughTime(epochs=1, batch_size=8, learning_rate=1e-4)),
        (rb.ParallelConversion(timesteps=3, errors=False), rb.passes.ErrorCalibration(images=8)),
        (rb.ParallelConversion(timesteps=3), rb.passes.SpatialRecalibration(images=8, batch_size=8)),
        (rb.ParallelConversion(timesteps=3), rb.passes.TemporalCorrection(batch_size=8)),
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PASSES)
def test_passes(kind: str) -> None:
    recipe, part = PASSES[kind]
    images = grid_images("MLP")
    snn = rb.convert(networks.build("MLP"), recipe, calibration=images)
    rb.testing.check_pass(part, snn, rb.data.CalibrationData.pool(images))


def test_every_built_in_pass_is_tested() -> None:
    built_in = {kind for kind, cls in rb.passes.PASSES.items() if cls.__module__.startswith("rheobase.")}
    assert built_in == set(PASSES)


class Secret(rb.passes.ShiftCurrent):
    """Changes what it does not name."""

    kind: Literal["secret"] = "secret"  # type: ignore[assignment]

    def apply(self, network: rb.SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        changes = super().apply(network, data, progress)
        return Changes({site: [] for site in changes.changed})


class Random(rb.passes.ShiftCurrent):
    """Draws without a seed."""

    kind: Literal["random"] = "random"  # type: ignore[assignment]

    def apply(self, network: rb.SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        for neuron in network.neurons:
            neuron.threshold = neuron.threshold * (1 + torch.rand(()))
        return Changes({site.name: ["threshold"] for site in network.sites})


@pytest.mark.slow
@pytest.mark.parametrize(("part", "problem"), [(Secret, "does not name"), (Random, "other parameters")])
def test_a_pass_that_breaks_its_promise_is_found(part: type[CalibrationPass], problem: str) -> None:
    images = grid_images("MLP")
    snn = rb.convert(networks.build("MLP"), rb.RateCoding(timesteps=3), calibration=images)
    with pytest.raises(AssertionError, match=problem):
        rb.testing.check_pass(part(), snn, rb.data.CalibrationData.pool(images))
