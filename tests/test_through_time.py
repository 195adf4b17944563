"""Training through time: gradients, the trained network as an ordinary spiking network, runs that stop or resume."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
import own_neurons
import rheobase as rb
from conftest import Stop, grid_images
from rheobase.core.errors import CalibrationError, DivergedError, RecipeError, TrainingError
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods import NeuronPart
from rheobase.network import TrainableNetwork
from rheobase.neurons import Graded, MembraneNeuron, MultiThreshold, Signed, set_fusion
from rheobase.signals import Constant, TimeSeries


class TakesBack(NeuronPart):
    """Graded neurons at every site."""

    kind: Literal["takes_back"] = "takes_back"
    builds = Graded
    magnitude: int = 1

    def build(self, site: Site, graph: Graph) -> Graded:
        return Graded(torch.tensor(1.0), torch.tensor(0.5), magnitude=self.magnitude)


@pytest.fixture(autouse=True)
def _registered(own_parts: None) -> None:
    rb.register(TakesBack)


def converted(
    *passes: Any, name: str = "MLP", timesteps: int = 3, neuron: NeuronPart | None = None, n: int = 20
) -> Any:
    part = neuron or rb.methods.IntegrateFireNeuron()
    calibration = (rb.passes.Thresholds(), *passes)
    recipe = rb.Recipe(name="through", timesteps=timesteps, neuron=part, calibration=calibration)
    return rb.convert(networks.build(name), recipe, calibration=grid_images(name, n))


# -- the gradient -------------------------------------------------------------------------------------------------


class Dual:
    """A number and its derivative in one direction."""

    def __init__(self, value: float, slope: float = 0.0) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Dual) -> Dual:
        return Dual(self.value + other.value, self.slope + other.slope)

    def __sub__(self, other: Dual) -> Dual:
        return Dual(self.value - other.value, self.slope - other.slope)

    def __mul__(self, other: Dual) -> Dual:
        return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def over(self, other: Dual) -> Dual:
        ratio = self.value / other.value
        return Dual(ratio, (self.slope - ratio * other.slope) / other.value)


def dual_loop(
    neuron: MembraneNeuron, inputs: dict[str, list[float]], outgoing: list[float], moved: tuple[str, int], width: float
) -> float:
    """d Σ_t g[t] θ k[t] for a change of one input: forward mode, number by number, from the definition."""
    given = {name: [Dual(x, float((name, i) == moved)) for i, x in enumerate(xs)] for name, xs in inputs.items()}
    (theta,), (v0,) = given["theta"], given["v0"]
    values = neuron.alphabet.values
    v, sent, total = v0 * theta, 0, 0.0
    for current, bias, g in zip(given["current"], given["bias"], outgoing, strict=True):
        u = v + current - bias
        x = u.over(theta)
        state = torch.tensor([[float(sent)]], dtype=torch.float64) if neuron.remembers else None
        potential, threshold = (torch.tensor([[x]], dtype=torch.float64) for x in (u.value, theta.value))
        spikes = neuron.count(potential, threshold, state)
        slope = 0.0
        for (edge, rise), low in zip(neuron.edges, values, strict=False):
            if not neuron.remembers or low >= -sent:  # else the neuron has nothing to take back
                slope += (abs(x.value - edge) < rise * width / 2) / width
        emitted = theta * Dual(float(spikes), slope * x.slope)
        v, sent, total = u - emitted, sent + int(spikes), total + g * emitted.slope
    return total


def neurons() -> list[MembraneNeuron]:
    theta, v0 = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    signed = [Graded(theta, v0, magnitude=m, nonnegative=n) for m in (1, 2, 3) for n in (True, False)]
    return [*signed, Signed(theta, v0), MultiThreshold(theta, v0, magnitude=4), own_neurons.Burst(theta, v0)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(neurons())))
@given(data=st.data())
def test_the_gradient_of_any_alphabet_against_a_plain_loop(number: int, data: st.DataObject) -> None:
    neuron, steps = neurons()[number], data.draw(st.integers(1, 10))  # the loop takes 8 at once

    def draw(least: float, most: float, size: int) -> list[float]:
        return data.draw(st.lists(st.floats(least, most), min_size=size, max_size=size))

    inputs = {
        "current": draw(-4, 6, steps),
        "bias": draw(-1, 1, steps),
        "theta": draw(0.3, 3, 1),
        "v0": draw(-1, 2, 1),
    }
    outgoing, width = draw(-2, 2, steps), data.draw(st.sampled_from([0.5, 1.0, 2.0]))
    x, b, t, v = (torch.tensor(xs, dtype=torch.float64).requires_grad_() for xs in inputs.values())
    parameters = {"threshold": t, "initial_potential": v, "bias": b.reshape(-1, 1)}
    fired = neuron.run_with_gradient(TimeSeries(x.reshape(-1, 1, 1)), steps, parameters, width)
    (fired.flatten() * torch.tensor(outgoing, dtype=torch.float64)).sum().backward()
    for name, tensor in zip(inputs, (x, b, t, v), strict=True):
        assert tensor.grad is not None
        for i, ours in enumerate(tensor.grad.tolist()):
            expected = dual_loop(neuron, inputs, outgoing, (name, i), width)
            assert ours == pytest.approx(expected, abs=1e-9), (name, i)


def test_the_gradient_is_exact_where_no_edge_is_near() -> None:
    """With a narrow surrogate the spikes are constants, and finite differences of the simulation see the same slope."""
    neuron = Graded(torch.tensor([0.7, 1.1]).double(), torch.tensor(0.4).double(), magnitude=2)
    generator = torch.Generator().manual_seed(0)
    currents = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)
    outgoing = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)

    def total(theta: torch.Tensor) -> torch.Tensor:
        return (neuron.run_with_gradient(TimeSeries(currents), 4, {"threshold": theta}, 1e-9) * outgoing).sum()

    theta = neuron.threshold.clone().requires_grad_()
    total(theta).backward()
    for c in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[c] = 1e-7
        with torch.no_grad():
            slope = (total(neuron.threshold + step) - total(neuron.threshold - step)) / 2e-7
        assert float(theta.grad[c]) == pytest.approx(float(slope), rel=1e-5)  # type: ignore[index]


def test_a_silent_channel_has_no_gradient() -> None:
    neuron = Graded(torch.tensor([0.7, torch.inf]), torch.tensor(0.5))
    x = torch.randn(3, 4, 2, 2, 2).requires_grad_()
    theta, bias = neuron.threshold.clone().requires_grad_(), torch.zeros(3, 2).requires_grad_()
    fired = neuron.run_with_gradient(TimeSeries(x), 3, {"threshold": theta, "bias": bias}, 1.0)
    fired.square().sum().backward()
    for gradient in (x.grad[:, :, 1], theta.grad[1], bias.grad[:, 1]):  # type: ignore[index]
        assert not bool(gradient.any())
    for gradient in (x.grad[:, :, 0], theta.grad[0], bias.grad[:, 0]):  # type: ignore[index]
        assert bool(gradient.any())


@pytest.mark.slow
def test_the_compiled_loop_gives_the_same_bits() -> None:
    neuron, steps, found = neurons()[2], 3, []
    for mode in ("never", "always"):
        set_fusion(mode)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(steps, 4, 3, 5, 5, generator=generator)
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (steps, 4))
        x.requires_grad_()
        given = {"threshold": torch.tensor([0.5, 0.8, torch.inf]), "bias": torch.randn(steps, 3, generator=generator)}
        given["initial_potential"] = torch.rand(3, 5, 5, generator=generator)
        parameters = {name: value.requires_grad_() for name, value in given.items()}
        fired = neuron.run_with_gradient(TimeSeries(x), steps, parameters, 1.0)
        (fired * torch.randn(fired.shape, generator=generator)).sum().backward()
        found.append([fired.detach(), x.grad, *(parameter.grad for parameter in parameters.values())])
    set_fusion("auto")
    for plain, compiled in zip(*found, strict=True):
        assert torch.equal(plain, compiled)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLP", "OptionAResNet", "MaxPoolVGG"])
def test_recomputation_gives_the_same_gradient(name: str) -> None:
    max_pool = "gate" if name == "MaxPoolVGG" else "refuse"
    snn = rb.convert(networks.build(name), rb.RateCoding(timesteps=3), calibration=grid_images(name), max_pool=max_pool)
    images, found = grid_images(name)[:5], []
    for budget in (2**30, 1):
        trainable = TrainableNetwork(snn).double()
        trainable.network.memory_budget = budget
        assert trainable.images_in_budget() >= 5 if budget > 1 else trainable.images_in_budget() == 1
        trainable(images.double()).square().mean().backward()
        found.append({name: parameter.grad for name, parameter in trainable.named_parameters()})
    assert all(gradient is not None for gradient in found[0].values())
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLP", "OptionAResNet", "MobileNetV2"])
def test_what_is_stored_for_the_backward_pass_is_within_the_estimate(name: str) -> None:
    trainable, images = TrainableNetwork(converted(name=name)), grid_images(name)
    own = {parameter.untyped_storage().data_ptr() for parameter in trainable.parameters()}
    stored: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            stored[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        logits = trainable(images)
    trainable.network.memory_budget = sum(stored.values())
    assert trainable.images_in_budget() <= len(images)  # their memory is not enough for more
    assert logits.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", [None, 2])
def test_forward_it_is_the_spiking_network(magnitude: int | None) -> None:
    neuron = None if magnitude is None else TakesBack(magnitude=magnitude)
    snn = converted(rb.passes.TemporalBias(batch_size=8, iterations=1), name="OptionAResNet", neuron=neuron)
    images = grid_images("OptionAResNet")
    logits = TrainableNetwork(snn)(images)
    assert logits.requires_grad
    torch.testing.assert_close(logits.detach(), snn(images))


# -- the pass -----------------------------------------------------------------------------------------------------

FAST: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-4}


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", [None, 1])
def test_the_trained_network_is_an_ordinary_one(magnitude: int | None, tmp_path: Path) -> None:
    neuron = None if magnitude is None else TakesBack(magnitude=magnitude)
    part = rb.passes.ThroughTime(**FAST)
    snn, before = converted(part, neuron=neuron, n=80), converted(neuron=neuron)
    record, images = snn.provenance.passes[-1], grid_images("MLP")
    losses = [epoch["validation_loss"] for epoch in record["history"]]
    assert len(losses) == 3
    assert float(record["notes"][0].split(" -> ")[1]) == pytest.approx(min(losses), rel=1e-3)
    names = {name for changed in record["changed"].values() for name in changed}
    assert {"threshold", "initial_potential", "bias"} <= names
    assert set(snn.graph.tensor_names) <= names
    for name, tensor in before.ann.tensors.items():
        assert torch.equal(snn.ann.tensor(name), tensor)
    for site in snn.sites:
        assert snn.neuron(site.name).bias.shape == (3, site.channels)
    logits = snn(images)
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "net"))(images), logits)
    *_, (steps, last) = snn.stream(images)
    assert steps == 3
    torch.testing.assert_close(last, logits)
    assert torch.equal(converted(part, neuron=neuron, n=80)(images), logits)  # seeded
    with pytest.raises(RecipeError, match="calibrated for T = 3"):
        snn(images, timesteps=4)


@pytest.mark.slow
def test_only_what_is_named_is_trained() -> None:
    part = rb.passes.ThroughTime(**FAST, trains=("threshold", "initial_potential"))
    snn, before = converted(part, n=80), converted()
    assert {name for names in snn.provenance.passes[-1]["changed"].values() for name in names} == set(part.trains)
    for name, tensor in before.graph.tensors.items():
        assert torch.equal(snn.graph.tensor(name), tensor)
    snn(grid_images("MLP"), timesteps=5)  # without biases for every step, any T


@pytest.mark.slow
def test_any_network_and_labels() -> None:
    """Steps that differ between sites, silent channels, and labels as the target."""
    name, images = "OptionAResNet", grid_images("OptionAResNet")
    model = networks.build(name)
    with torch.no_grad():
        model.get_parameter("bn1.bias")[1] = -100.0  # a channel that is never active
    sites = converted(name=name).sites
    steps = {site.name: (2, 3, 4)[site.index % 3] for site in sites}
    recipe = rb.Recipe(
        name="mixed",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps=steps),
        alignment=rb.signals.Alignment(expansion="replicate", reduction="truncate"),
        calibration=(
            rb.passes.Thresholds(),
            rb.passes.ThroughTime(epochs=10, batch_size=4, learning_rate=1e-3, target="both"),
        ),
    )
    snn = rb.convert(model, recipe, calibration=(images[:4], torch.arange(4)))  # so few that none are held out
    notes = " ".join(snn.provenance.passes[-1]["notes"])
    assert "loss on the 4 fitted images" in notes
    assert "reverted" not in notes
    assert snn.provenance.passes[-1]["history"][-1]["train_accuracy"] is not None
    assert bool(torch.isinf(snn.neurons[0].threshold[1]))
    assert bool(torch.isfinite(snn(images)).all())
    with pytest.raises(CalibrationError, match="needs labels"):
        converted(rb.passes.ThroughTime(target="labels"))


@pytest.mark.slow
def test_a_worse_network_is_reverted() -> None:
    snn, before = converted(rb.passes.ThroughTime(epochs=1, batch_size=8, learning_rate=1.0, warmup=0)), converted()
    record = snn.provenance.passes[-1]
    assert record["notes"][0].startswith("reverted, the original network kept")
    assert record["changed"] == {}
    assert torch.equal(snn(grid_images("MLP")), before(grid_images("MLP")))


def test_training_that_diverges_stops_and_keeps_the_last_good_state() -> None:
    snn, before = converted(rb.passes.ThroughTime(epochs=2, batch_size=8, learning_rate=1e30)), converted()
    record = snn.provenance.passes[-1]
    assert record["notes"][0].startswith("stopped in epoch 1, step 1, the state before training kept: ")
    assert "is not finite" in record["notes"][0]
    assert "smaller learning rate" in record["notes"][0]
    assert torch.equal(snn(grid_images("MLP")), before(grid_images("MLP")))


@pytest.mark.slow
def test_a_run_that_diverges_later_keeps_its_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in the weights of a hidden layer makes binary neurons silent, and the loss stays finite."""
    original, calls = TrainableNetwork.finite, 0

    def finite(self: TrainableNetwork) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 18:  # once before training, eight steps an epoch
            with torch.no_grad():
                next(p for name, p in self.named_parameters() if name.endswith("weight")).fill_(torch.nan)
        return original(self)

    part = rb.passes.ThroughTime(**FAST)
    expected = converted(part, n=80)
    monkeypatch.setattr(TrainableNetwork, "finite", finite)
    snn = converted(part, n=80)
    notes = snn.provenance.passes[-1]["notes"]
    assert notes[0].startswith("stopped in epoch 3, step 1, the last good state kept: network.graph.weights.")
    assert "reverted" not in notes[1]
    assert bool(torch.isfinite(snn(grid_images("MLP"))).all())
    losses = [epoch["validation_loss"] for epoch in expected.provenance.passes[-1]["history"][:2]]
    assert float(notes[1].split(" -> ")[1]) == pytest.approx(min(losses), rel=1e-3)


@pytest.mark.slow
def test_neurons_that_wait_are_refused_with_what_to_use_instead() -> None:
    images = grid_images("MLP")
    quantised = rb.quantise(networks.build("MLP"), rb.QVM(levels=4), calibration=images)
    waiting = {
        "rb.passes.SpatialRecalibration and rb.passes.TemporalCorrection": (networks.build("MLP"), "parallel"),
        "rb.passes.SurrogateCalibration": (quantised, "constant_current"),
        "train the quantised network before": (quantised, "pasc"),
    }
    parts: dict[str, Any] = {
        "parallel": rb.methods.ParallelNeuron(timesteps=4),
        "constant_current": rb.methods.ConstantCurrentNeuron(),
        "pasc": rb.methods.PascNeuron(),
    }
    for remedy, (model, kind) in waiting.items():
        thresholds = (rb.passes.Thresholds(),) if kind == "parallel" else ()
        timesteps = 4 if kind == "parallel" else None
        recipe = rb.Recipe(name="waits", timesteps=timesteps, neuron=parts[kind], calibration=thresholds)
        snn = rb.convert(model, recipe, calibration=images)
        with pytest.raises(TrainingError, match=f"wait for their whole input.*{remedy}"):
            rb.train(snn, images, rb.Training(epochs=1, learning_rate=1e-3, batch_size=8))
        own = recipe.replace(calibration=(*thresholds, rb.passes.ThroughTime(epochs=1, batch_size=8)))
        with pytest.raises(CalibrationError, match=f"wait for their whole input.*{remedy}"):
            rb.convert(model, own, calibration=images)


def test_phases_are_refused() -> None:
    rb.register(own_neurons.Rehearsal)
    recipe = rb.Recipe(
        name="phases",
        timesteps=3,
        protocol=own_neurons.Rehearsal(steps=2),
        calibration=(rb.passes.Thresholds(), rb.passes.ThroughTime()),
    )
    with pytest.raises(CalibrationError, match="phases of rehearsal"):
        rb.convert(networks.build("MLP"), recipe, calibration=grid_images("MLP"))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"width": 0}, {"rate": -1}, {"trains": ()}, {"trains": ("delay",)}, {"lr": 1}]
)
def test_bad_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"through_time: .*{next(iter(wrong))}"):
        rb.passes.ThroughTime(**wrong)


def test_a_recipe_with_training_is_plain_text() -> None:
    part = rb.passes.ThroughTime(trains=("weights",), augment=rb.training.Augmentation(crop_padding=0))
    recipe = rb.Recipe(name="text", timesteps=2, calibration=(rb.passes.Thresholds(), part))
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe


# -- rb.train -----------------------------------------------------------------------------------------------------

SETTINGS = rb.Training(epochs=3, learning_rate=3e-4, optimiser="adamw", batch_size=8, weight_decay=0)


@pytest.mark.slow
def test_train_takes_a_spiking_network() -> None:
    snn, images = converted(neuron=TakesBack(magnitude=2)), grid_images("MLP")
    start = snn(images)
    trained = rb.train(snn, images, SETTINGS, validation=0.2)
    assert isinstance(trained.model, rb.SpikingNetwork)
    assert torch.equal(snn(images), start)  # a copy
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    assert not torch.equal(trained.model(images), start)
    labels = snn.ann(images).argmax(1).detach()
    labelled = rb.train(snn, (images, labels), SETTINGS, validation=None)
    assert labelled.history[0].train_accuracy is not None
    only = rb.train(snn, images, SETTINGS, validation=None, parameters=lambda name: name.endswith("threshold"))
    for name, tensor in snn.graph.tensors.items():
        assert torch.equal(only.model.graph.tensor(name), tensor)  # type: ignore[union-attr]
    assert not torch.equal(only.model.neurons[0].threshold, snn.neurons[0].threshold)  # type: ignore[union-attr,index]


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    snn, images = converted(neuron=TakesBack()), grid_images("MLP")
    arguments: dict[str, Any] = {"model": snn, "data": images, "training": SETTINGS, "validation": 0.2}
    whole = rb.train(**arguments, penalty=Stop(), folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        rb.train(**arguments, penalty=Stop(4), folder=tmp_path / "cut")  # in the second epoch of two steps
    again = rb.train(**arguments, penalty=Stop(), folder=tmp_path / "cut")
    assert [epoch.train_loss for epoch in again.history] == [epoch.train_loss for epoch in whole.history]
    one, other = whole.model.state_dict(), again.model.state_dict()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name


@pytest.mark.parametrize("change", [{"magnitude": 2}, {"initial_potential": 0.25}])
def test_the_folder_of_another_spiking_network_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """Its tensors have the same names and shapes."""
    images, once = grid_images("MLP"), SETTINGS.replace(epochs=1)
    one, other = (converted(neuron=rb.methods.GradedNeuron(**options)) for options in ({}, change))
    rb.train(one, images, once, validation=None, folder=tmp_path)
    with pytest.raises(TrainingError, match="holds the checkpoint of another run: neurons"):
        rb.train(other, images, once, validation=None, folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trains": "weights"}, "trains: is 'weights'"),
        ({"trains": ("weight",)}, "trains: is 'weight'"),
        ({"granularity": "site"}, "granularity: is 'site'"),
        ({"width": 0}, "width: is 0"),
        ({"rate": float("nan")}, "rate: is nan"),
    ],
)
def test_bad_options_of_the_trainable_network(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        TrainableNetwork(converted(), **options)


def test_a_run_that_diverges_names_the_parameter(tmp_path: Path) -> None:
    snn, images = converted(), grid_images("MLP")
    with pytest.raises(DivergedError, match=r"epoch 1, step 1: sites\.act1\.threshold is not finite"):
        rb.train(snn, images, SETTINGS.replace(learning_rate=1e30), folder=tmp_path)


@pytest.mark.slow
def test_digits_end_to_end() -> None:
    """Real images: binary neurons at T = 2 agree with the analog network more often, on images that nobody fitted."""
    from rheobase.zoo.digits import digits, train

    data = digits()
    net = train(data.train, epochs=2, seed=0)
    passes = (rb.passes.Thresholds(), rb.passes.ThroughTime(epochs=4))
    recipes = [rb.Recipe(name="digits", timesteps=2, calibration=passes[:n]) for n in (1, 2)]
    found = [rb.convert(net, recipe, calibration=data.train[0]) for recipe in recipes]
    agreements = [rb.evaluate(snn, data.test, timesteps=(2,)).rows[0].agreement for snn in found]
    assert agreements[1] > agreements[0] + 0.05
    assert copy.deepcopy(found[1])(data.test[0][:4]).shape == (4, 10)


def test_a_constant_input_has_the_gradient_of_all_steps() -> None:
    neuron = Graded(torch.tensor(1.0), torch.tensor(0.5))
    x = torch.rand(4, 3).requires_grad_()
    neuron.run_with_gradient(Constant(x), 3, {}, 1.0).sum().backward()
    held = x.grad
    y = x.detach().expand(3, 4, 3).clone().requires_grad_()
    neuron.run_with_gradient(TimeSeries(y), 3, {}, 1.0).sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(held, y.grad.sum(0))
