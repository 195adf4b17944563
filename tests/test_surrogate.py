"""V0 and θ trained through the simulation; neurons under a constant current whose V0 has left [0, θ]."""

from __future__ import annotations

import copy
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import networks
import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.activations.staircase import clipped_count
from rheobase.core.errors import CalibrationError, DataError, RecipeError
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods import ConstantCurrentNeuron, PascNeuron
from rheobase.neurons import ConstantCurrent, IntegrateFire
from rheobase.neurons.surrogate import above_threshold, at_threshold, fire_with_gradient
from rheobase.signals.signal import Constant

# -- V0 anywhere --------------------------------------------------------------------------------------------------


def spikes_by_hand(z: float, theta: float, v0: float, steps: int, strict: bool) -> list[int] | None:
    """The neuron as printed, in exact arithmetic; None where a float could fall on the other side of the threshold."""
    potential, out = Fraction(v0) * Fraction(theta), []
    for _ in range(steps):
        potential += Fraction(z)
        if 0 < abs(potential - Fraction(theta)) < Fraction(1, 10**9):
            return None
        fires = potential > theta if strict else potential >= theta
        out.append(int(fires))
        potential -= fires * Fraction(theta)
    return out


@given(
    theta=st.lists(st.integers(1, 40), min_size=2, max_size=2),
    v0=st.lists(st.integers(-30, 30), min_size=2, max_size=2),
    z=st.lists(st.floats(-3, 5), min_size=6, max_size=6),
    steps=st.integers(1, 7),
    strict=st.booleans(),
)
def test_any_initial_potential(theta: list[int], v0: list[int], z: list[float], steps: int, strict: bool) -> None:
    """One a channel, inside [0, θ] or not: both executions are the printed neuron."""
    thetas, v0s = [t / 10 for t in theta], [v / 10 for v in v0]
    currents = torch.tensor(z, dtype=torch.float64).reshape(3, 2)
    expected = [
        [spikes_by_hand(float(currents[b, c]), thetas[c], v0s[c], steps, strict) for c in range(2)] for b in range(3)
    ]
    assume(all(train is not None for row in expected for train in row))
    neuron = ConstantCurrent(
        torch.tensor(thetas, dtype=torch.float64),
        steps,
        initial_potential=torch.tensor(v0s, dtype=torch.float64),
        strict=strict,
    )
    assert (neuron.response(4) is not None) == all(0 <= v <= 1 for v in v0s)
    trains = torch.tensor(expected, dtype=torch.float64).movedim(2, 0)
    fired = neuron.fire(Constant(currents), steps)
    assert torch.equal((fired != 0).double(), trains)
    torch.testing.assert_close(neuron.rate(currents.clone(), steps), fired.mean(0))
    torch.testing.assert_close(neuron.rate(currents.clone(), steps, overwrite=True), fired.mean(0))


@pytest.mark.parametrize(("v0", "z", "steps", "counted", "closed"), [(-2.0, 2.0, 2, 1, 2), (1.5, -0.5, 2, 1, 0)])
def test_the_closed_form_is_wrong_out_there(v0: float, z: float, steps: int, counted: int, closed: int) -> None:
    """By hand. -2 + 2 = 0, 2 fires: 1, and ⌊4 - 2⌋ = 2. 1.5 - .5 = 1 fires, -.5: 1, and ⌊-1 + 1.5⌋ = 0."""
    theta, current = torch.tensor(1.0), torch.tensor([[z]])
    assert float(clipped_count(current, theta, steps, v0, strict=False)) == closed
    assert float(ConstantCurrent(theta, steps, initial_potential=v0).rate(current, steps)) * steps == counted


def test_what_the_recipe_gives_is_not_strict_by_accident(tmp_path: Path) -> None:
    theta = torch.tensor(1.0)
    assert ConstantCurrent(theta, 2, "ceil").strict
    assert ConstantCurrent(theta, 2, initial_potential=1.0).strict
    assert not ConstantCurrent(theta, 2).strict
    neuron = ConstantCurrent(theta, 2, "ceil")
    neuron.initial_potential = torch.tensor(0.9)  # calibrated
    again = ConstantCurrent(**neuron.config(), threshold=theta, initial_potential=neuron.initial_potential)
    assert again.strict
    with pytest.raises(RecipeError, match="initial potential: must be finite"):
        ConstantCurrent(theta, 2, initial_potential=torch.tensor([0.1, torch.nan]))


@cache
def quantised(name: str, levels: int = 4) -> TrainableGraph:
    return rb.quantise(networks.build(name), rb.QVM(levels=levels), calibration=grid_images(name)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DenseNet", "MLP"])
def test_only_sites_that_need_it_are_stepped(name: str, tmp_path: Path) -> None:
    """Counts and steps agree where V0 of some sites left [0, θ], one value for the site or one a channel."""
    snn = rb.convert(quantised(name), rb.QVM()).double()
    uncalibrated = snn(grid_images(name)[:5].double())
    stepped = {0: torch.tensor(-0.7), len(snn.sites) - 1: torch.linspace(-1.5, 2.0, snn.sites[-1].channels)}
    for index, v0 in stepped.items():
        snn.neurons[index].initial_potential = v0.double()
    snn.neurons[1].initial_potential = torch.linspace(0, 1, snn.sites[1].channels).double()
    assert [site.index for site in snn.sites if snn.neuron(site.name).response(4) is None] == sorted(stepped)
    images = grid_images(name)[:5].double()
    assert snn.execution_mode == "counts"
    counts = [snn(images, timesteps=t) for t in (4, 8)]
    assert float((counts[0] - uncalibrated).abs().max()) > 1e-3
    again = rb.load(rb.save(snn, tmp_path / "net"))
    assert torch.equal(again(images), counts[0])
    snn.execution = "steps"
    for t, expected in zip((4, 8), counts, strict=True):
        torch.testing.assert_close(snn(images, timesteps=t), expected)


# -- the gradient -------------------------------------------------------------------------------------------------


def test_the_gradient_by_hand() -> None:
    """θ = 1, V0 = ½, I = (.3, .4): u = .8, no spike; u = 1.2, a spike; both within the band.

    By I1: .8 would rise, 1, and then takes back in the reset what it added, so nothing later. By V0 the same. By θ:
    ∂x1 = V0 - u1 = -.3, so ∂v1 = ½ + .3 = .8; ∂x2 = .8 - 1.2 = -.4, and the spike's amplitude 1: -.3 - .4 + 1.
    """
    theta, v0 = torch.tensor(1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    currents = torch.tensor([0.3, 0.4]).reshape(2, 1, 1).requires_grad_()
    emitted = fire_with_gradient(currents, theta, v0)
    assert emitted.flatten().tolist() == [0, 1]
    emitted.sum().backward()
    assert currents.grad is not None
    torch.testing.assert_close(currents.grad.flatten(), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(v0.grad, torch.tensor(1.0))
    torch.testing.assert_close(theta.grad, torch.tensor(0.3))


def dual_loop(currents: list[float], theta: float, v0: float, seeds: tuple[float, float, float], width: float) -> float:
    """d Σ θs for a change of (every current, θ, V0): forward mode, number by number."""
    by_current, by_theta, by_v0 = seeds
    v, dv, total = v0 * theta, by_v0 * theta + v0 * by_theta, 0.0
    for current in currents:
        u, du = v + current, dv + by_current
        spike = float(u >= theta)
        slope = (abs(u / theta - 1) < width / 2) / width
        value, dvalue = theta * spike, by_theta * spike + theta * slope * (du / theta - u * by_theta / theta**2)
        v, dv, total = u - value, du - dvalue, total + dvalue
    return total


@given(
    currents=st.lists(st.floats(-2, 3), min_size=1, max_size=6),
    theta=st.floats(0.2, 3),
    v0=st.floats(-1, 2),
    width=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_gradient_against_a_plain_loop(currents: list[float], theta: float, v0: float, width: float) -> None:
    x = torch.tensor(currents, dtype=torch.float64).reshape(-1, 1, 1).requires_grad_()
    t, v = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (theta, v0))
    fire_with_gradient(x, t, v, width=width).sum().backward()
    assert x.grad is not None
    for seeds, ours in (((1, 0, 0), x.grad.sum()), ((0, 1, 0), t.grad), ((0, 0, 1), v.grad)):
        assert float(ours) == pytest.approx(dual_loop(currents, theta, v0, seeds, width), abs=1e-9)  # type: ignore[arg-type]


def test_forward_it_is_the_simulation() -> None:
    g = torch.Generator().manual_seed(3)
    currents = torch.randn(6, 4, 3, 2, 2, generator=g)
    theta = torch.tensor([0.7, torch.inf, 1.3])
    for v0 in (torch.tensor(0.5), torch.tensor([0.1, 0.5, -0.3]), torch.rand(3, 2, 2, generator=g)):
        for bias in (None, torch.randn(3, generator=g), torch.randn(6, 3, generator=g)):
            neuron = IntegrateFire(theta, v0, bias)
            expected = neuron.run(currents, neuron.init(currents.shape[1:], currents[0]))[0]
            assert torch.equal(fire_with_gradient(currents, theta, v0, bias), expected)
    z, theta, v0 = (torch.rand(*shape, generator=g, dtype=torch.float64) for shape in ((5, 3), (3,), (3,)))
    for strict in (False, True):
        expected = ConstantCurrent(theta, 6, initial_potential=v0, strict=strict).fire(Constant(z), 6)
        rule = above_threshold if strict else at_threshold
        ours = fire_with_gradient(z.expand(6, 5, 3), theta, v0, count=rule)
        torch.testing.assert_close(ours, expected)


# -- the pass -----------------------------------------------------------------------------------------------------


def calibrated(
    part: rb.passes.SurrogateCalibration, name: str = "MLP", timesteps: int = 2, n: int = 20
) -> rb.SpikingNetwork:
    neuron = ConstantCurrentNeuron(timesteps=timesteps)
    recipe = rb.Recipe(name="calibrated", timesteps=timesteps, neuron=neuron, calibration=(part,))
    return rb.convert(quantised(name), recipe, calibration=grid_images(name)[:n])


@pytest.mark.parametrize("train", ["both", "threshold", "potential"])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_what_is_trained(train: str, granularity: str) -> None:
    """Only what is named, in the shape that is named; the weights never."""
    part = rb.passes.SurrogateCalibration(
        train=train, granularity=granularity, epochs=3, batch_size=8, learning_rate=0.02
    )  # type: ignore[arg-type]
    snn, before = calibrated(part), rb.convert(quantised("MLP"), rb.QVM(timesteps=2))
    record = snn.provenance.passes[0]
    assert [r["epoch"] for r in record["history"]] == [0, 1, 2, 3]
    names = {"both": {"threshold", "initial_potential"}, "threshold": {"threshold"}, "potential": {"initial_potential"}}
    errors = [r["logit_error"] for r in record["history"]]
    assert min(errors) < errors[0]  # so that there is something to look at
    assert set(record["changed"]) <= {site.name for site in snn.sites}
    assert set().union(*record["changed"].values()) == names[train]
    for site in snn.sites:
        neuron = snn.neuron(site.name)
        assert isinstance(neuron, ConstantCurrent)
        shape = (site.channels,) if granularity == "channel" else ()
        assert neuron.threshold.shape == (shape if "threshold" in names[train] else ())
        assert bool((neuron.threshold > 0).all())
        if train != "threshold":
            assert neuron.initial_potential is not None
            assert neuron.initial_potential.shape == shape
    for tensor, original in zip(snn.graph.tensors.values(), before.graph.tensors.values(), strict=True):
        assert torch.equal(tensor, original)
    images = grid_images("MLP")
    held = snn.provenance.calibration["held_out"]
    assert held == 4
    assert torch.equal(calibrated(part)(images), snn(images))  # seeded


def test_one_step_is_adams() -> None:
    """One epoch of one batch: every ρ and δ moves by the learning rate against its gradient, or not at all."""
    part = rb.passes.SurrogateCalibration(epochs=1, batch_size=100, learning_rate=1e-3, granularity="layer")
    snn, start = calibrated(part, n=4), rb.convert(quantised("MLP"), rb.QVM(timesteps=2))  # four: none held out
    assert snn.provenance.passes[0]["notes"][0].startswith("not checked")
    for neuron, before in zip(snn.neurons, start.neurons, strict=True):
        assert isinstance(neuron, ConstantCurrent)
        rho, delta = torch.log(neuron.threshold / before.threshold), torch.as_tensor(neuron.v0) - 0.5
        for moved in (rho, delta):
            assert abs(float(torch.as_tensor(moved))) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.slow
def test_plain_neurons_with_silent_channels_biases_and_mixed_steps() -> None:
    name = "OptionAResNet"
    steps = {site.name: (2, 3, 4)[site.index % 3] for site in grid_snn(name).sites}
    part = rb.passes.SurrogateCalibration(epochs=3, batch_size=8, learning_rate=0.02)
    recipe = rb.Recipe(
        name="plain",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps=steps),
        alignment=rb.signals.Alignment(expansion="replicate", reduction="truncate"),
        calibration=(rb.passes.Thresholds(), rb.passes.PotentialCorrection(images=8), part),
    )
    model = networks.build(name)
    with torch.no_grad():
        model.get_parameter("bn1.bias")[1] = -100.0  # a channel that is never active
    snn = rb.convert(model, recipe, calibration=grid_images(name))
    record = snn.provenance.passes[-1]
    errors = [r["logit_error"] for r in record["history"]]
    assert min(errors) < errors[0]
    assert record["changed"]
    assert bool(torch.isinf(snn.neurons[0].threshold[1]))
    assert bool(torch.isfinite(snn(grid_images(name))).all())


def test_an_exact_network_is_left_alone() -> None:
    part = rb.passes.SurrogateCalibration()
    snn = calibrated(part, timesteps=4)
    record = snn.provenance.passes[0]
    assert record["changed"] == {}
    assert ["original network kept" in note for note in record["notes"]] == [True]
    with torch.no_grad():
        assert torch.equal(snn(grid_images("MLP")), snn.ann(grid_images("MLP")))


def test_steps_that_are_too_large_are_undone_and_named() -> None:
    snn = calibrated(rb.passes.SurrogateCalibration(learning_rate=1e9, epochs=2))
    record, first = snn.provenance.passes[0], snn.sites[0].name
    assert record["changed"] == {}
    assert record["notes"][0].startswith(f"stopped in epoch 1: {first}.threshold is no longer finite")
    assert "original network kept" in record["notes"][1]
    images = grid_images("MLP")
    assert torch.equal(snn(images), rb.convert(quantised("MLP"), rb.QVM(timesteps=2))(images))
    worse = calibrated(rb.passes.SurrogateCalibration(learning_rate=20, epochs=1), timesteps=3).provenance.passes[0]
    assert worse["history"][1]["logit_error"] > worse["history"][0]["logit_error"]
    assert worse["changed"] == {}


def test_potentials_that_leave_their_range_are_noted() -> None:
    part = rb.passes.SurrogateCalibration(
        train="potential", granularity="channel", learning_rate=0.3, epochs=3, batch_size=4
    )
    snn = calibrated(part, n=4)  # none held out: it stays, good or not
    images = grid_images("MLP").double()
    outside = [site.name for site in snn.sites if snn.neuron(site.name).response(4) is None]
    noted = [note.split(":")[0] for note in snn.provenance.passes[0]["notes"] if "simulated step by step" in note]
    assert outside
    assert noted == outside
    exact = copy.deepcopy(snn).double()
    counts = exact(images)
    exact.execution = "steps"
    torch.testing.assert_close(exact(images), counts)


@pytest.mark.slow
def test_digits_end_to_end(tmp_path: Path) -> None:
    """Real images: fewer steps than levels, and some of what that costs is won back on images that nobody fitted."""
    from rheobase.zoo.digits import digits, train

    data = digits()
    net = rb.quantise(train(data.train, epochs=2, seed=0), rb.QVM(levels=4), calibration=data.train)
    settings = rb.Training(epochs=1, learning_rate=0.01)
    net = rb.train(net, data.train, settings, validation=None, progress=False).model
    part = rb.passes.SurrogateCalibration(epochs=3)
    recipe = rb.Recipe(name="QVM", timesteps=2, neuron=ConstantCurrentNeuron(timesteps=2), calibration=(part,))
    before, after = (rb.convert(net, r, calibration=data.train) for r in (rb.QVM(timesteps=2), recipe))
    errors = [rb.evaluate(snn, data.test, timesteps=(2,)).rows[0].logit_error for snn in (before, after)]
    assert errors[1] < 0.97 * errors[0]
    again = rb.load(rb.save(after, tmp_path / "net"))
    assert torch.equal(again(data.test[0]), after(data.test[0]))


def test_bad_input() -> None:
    for wrong in (
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"width": 0},
        {"weight_decay": -1},
        {"train": "weights"},
        {"granularity": "neuron"},
        {"lr": 0.1},
    ):
        with pytest.raises(RecipeError, match=f"surrogate_calibration: .*{next(iter(wrong))}"):
            rb.passes.SurrogateCalibration(**wrong)  # type: ignore[arg-type]
    part = rb.passes.SurrogateCalibration()
    recipe = rb.Recipe(name="pasc", timesteps=None, neuron=PascNeuron(), calibration=(part,))
    with pytest.raises(CalibrationError, match="Pasc neurons"):
        rb.convert(quantised("MLP"), recipe, calibration=grid_images("MLP"))
    with pytest.raises(DataError, match="calibration: is needed"):
        rb.convert(quantised("MLP"), recipe)
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
