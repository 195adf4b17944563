"""Quantised networks and their exact conversions, on every network of the grid."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import networks
import rheobase as rb
from conftest import grid_images, grid_network, grid_snn
from rheobase.core.errors import CalibrationError, DataError, ModelError, RecipeError, TraceError
from rheobase.graph.sites import site_table
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods import METHODS, Recipe

pytestmark = pytest.mark.usefixtures("traced_once")

RECIPES = {
    "Pascal": rb.Pascal(levels=4),
    "Pascal by channel": rb.Pascal(levels=3, granularity="channel"),
    "QVM": rb.QVM(levels=4),
    "QVM floor": rb.QVM(levels=8, rounding="floor"),
    "QVM ceil": rb.QVM(levels=2, rounding="ceil"),
    "QAC": rb.QAC(mean_timesteps=2.5),
}


def test_every_method_that_quantises_is_in_this_grid() -> None:
    quantised = {m for m in METHODS if METHODS[m]().activation is not None}
    assert {recipe.name for recipe in RECIPES.values()} == quantised - {"QCFS", "SlipReLU"}  # these approximate


def mixed_levels(name: str) -> dict[str, int]:
    """1, 5, 3, 1, 5, 3, ...: branches with other levels meet wherever branches meet."""
    return {site.name: (1, 5, 3)[site.index % 3] for site in grid_snn(name).sites}


@cache
def quantised(name: str, recipe: Recipe) -> TrainableGraph:
    return rb.quantise(grid_network(name), recipe, calibration=grid_images(name)).eval()


def exact(snn: rb.SpikingNetwork) -> rb.SpikingNetwork:
    """The same network in float64, so that the order of sums tips no count."""
    return copy.deepcopy(snn).double()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", networks.GRID)
def test_every_network_converts_exactly(name: str, recipe: Recipe) -> None:
    """Quantised network, its graph, closed form and simulation, one answer."""
    images = grid_images(name)
    qnet = quantised(name, recipe)
    if name == "QCFSResNet" and recipe.name == "QVM" and recipe.activation.rounding != "round":  # type: ignore[union-attr]
        pytest.skip("its sites were trained to round to the nearest")
    snn = rb.convert(qnet, recipe)
    assert snn.execution_mode == "counts"
    if recipe.name == "QAC":
        assert sum(snn.steps_of(site.name) for site in snn.sites) == 5 * len(snn.sites) // 2
    with torch.no_grad():
        ann = snn.ann(images)
        counts = snn(images)
        assert torch.equal(ann, counts)
        if recipe == RECIPES["Pascal"]:
            graph = copy.deepcopy(qnet).double()
            torch.testing.assert_close(graph(images.double()), exact(snn)(images.double()))
    simulated = exact(snn)
    simulated.execution = "steps"
    torch.testing.assert_close(simulated(images[:6].double()), exact(snn)(images[:6].double()))


@pytest.mark.slow
@pytest.mark.parametrize("method", [rb.Pascal, rb.QVM], ids=["Pascal", "QVM"])
@pytest.mark.parametrize("name", ["OptionAResNet", "DenseNet", "UNet", "MobileNetV2", "MLP"])
def test_levels_that_differ_from_site_to_site(name: str, method) -> None:  # type: ignore[no-untyped-def]
    recipe = method(levels=mixed_levels(name))
    images = grid_images(name)[:6].double()
    snn = exact(rb.convert(quantised(name, recipe), recipe))
    assert snn.timesteps == 5
    assert {snn.steps_of(site.name) for site in snn.sites} == {1, 3, 5}
    counts = snn(images)
    snn.execution = "steps"
    torch.testing.assert_close(snn(images), counts)
    with torch.no_grad():
        torch.testing.assert_close(counts, snn.ann(images))


@pytest.mark.slow
def test_max_pooling_is_exact() -> None:
    recipe, images = rb.QVM(levels=4), grid_images("MaxPoolVGG")
    qnet = rb.quantise(networks.build("MaxPoolVGG"), recipe, calibration=images, max_pool="gate").eval()
    snn = exact(rb.convert(qnet, recipe))
    counts = snn(images.double())
    with torch.no_grad():
        torch.testing.assert_close(counts, copy.deepcopy(qnet).double()(images.double()))
    snn.execution = "steps"
    torch.testing.assert_close(snn(images.double()), counts)
    with pytest.raises(TraceError, match="max_pool"):
        rb.quantise(networks.build("MaxPoolVGG"), recipe, calibration=images)


@pytest.mark.slow
def test_batches_streams_and_reports() -> None:
    recipe, images = rb.QVM(levels=4), grid_images("OptionAResNet")
    snn = rb.convert(quantised("OptionAResNet", recipe), recipe)
    whole = snn(images)
    for size in (1, 3, 7):
        assert torch.equal(torch.cat([snn(part) for part in images.split(size)]), whole)
    streamed = dict(snn.stream(images))
    assert list(streamed) == [1, 2, 3, 4]
    snn.execution = "steps"
    torch.testing.assert_close(streamed[4], snn(images))
    assert torch.equal(torch.cat([snn(part) for part in images.split(3)]), snn(images))
    steps = rb.evaluate(snn, (images, torch.arange(20) % 3), timesteps=(1, 4, 8))
    snn.execution = "counts"
    counts = rb.evaluate(snn, (images, torch.arange(20) % 3), timesteps=(1, 4, 8))
    assert (steps.execution, counts.execution) == ("steps", "counts")
    for a, b in zip(steps.rows, counts.rows, strict=True):
        assert a.accuracy == b.accuracy
        assert a.spike_rate == pytest.approx(b.spike_rate, rel=1e-3)
    assert counts.rows[1].agreement == 1.0
    spikes = []
    snn.execution = "steps"
    snn.readouts(images, (8,), monitor=lambda site, train: spikes.append(int((train.values != 0).sum())))
    neurons = sum(site.neurons for site in snn.sites)
    assert steps.rows[2].spike_rate == pytest.approx(sum(spikes) / (20 * neurons * 8))
    assert steps.site_rates == pytest.approx(counts.site_rates, rel=1e-3)


def test_saved_and_loaded(tmp_path: Path) -> None:
    for method in (rb.Pascal, rb.QVM):
        recipe, images = method(levels=mixed_levels("MLP")), grid_images("MLP")
        snn = rb.convert(quantised("MLP", recipe), recipe)
        again = rb.load(rb.save(snn, tmp_path / recipe.name))
        assert torch.equal(again(images), snn(images))
        assert [type(n) for n in again.neurons] == [type(n) for n in snn.neurons]
        assert [n.config() for n in again.neurons] == [n.config() for n in snn.neurons]
        # from the stored network to another method, without the original
        other = rb.convert(again, rb.RateCoding(timesteps=4, threshold="saturation"), calibration=images)
        assert other.execution_mode == "steps"
        assert torch.equal(other.ann(images), snn(images))


@pytest.mark.slow
def test_a_network_that_trains() -> None:
    """Its parameters have the user's names; a step of training moves weights and thresholds; what it gives converts."""
    model, images = networks.build("OptionAResNet"), grid_images("OptionAResNet")
    recipe = rb.Pascal(levels=4)
    qnet = rb.quantise(model, recipe, calibration=images)
    names = {name for name, _ in qnet.named_parameters()}
    assert {name for name, _ in model.named_parameters()} <= names
    assert {f"{site}.threshold" for site in qnet.activations} == names - {n for n, _ in model.named_parameters()}
    trained = rb.train(
        qnet, (images, torch.arange(20) % 5), rb.Training(epochs=2, learning_rate=0.05, batch_size=10), validation=None
    )
    before, after = dict(qnet.named_parameters()), dict(trained.model.named_parameters())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.endswith("threshold") for name in moved)
    assert any(name.endswith("conv1.weight") for name in moved)
    assert not torch.equal(qnet.get_buffer("bn1.running_mean"), trained.model.get_buffer("bn1.running_mean"))
    snn = exact(rb.convert(trained.model, recipe))
    with torch.no_grad():
        torch.testing.assert_close(snn(images.double()), copy.deepcopy(trained.model).double()(images.double()))
    state = {name: value for name, value in trained.model.state_dict().items() if not name.endswith("threshold")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


@pytest.mark.slow
def test_the_start_of_training_is_close_to_the_float_network() -> None:
    model, images = networks.build("VGG"), grid_images("VGG")
    errors = []
    for levels in (2, 8, 32):
        qnet = rb.quantise(model, rb.QVM(levels=levels, granularity="channel"), calibration=images).eval()
        with torch.no_grad():
            errors.append(float((qnet(images) - model(images)).norm() / model(images).norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_other_levels_keep_theta() -> None:
    first = quantised("MLP", rb.Pascal(levels=4))
    second = rb.quantise(first, rb.Pascal(levels=mixed_levels("MLP")), calibration=grid_images("MLP"))
    for name, activation in second.activations.items():
        assert activation.levels == mixed_levels("MLP")[name]
        assert torch.equal(activation.threshold, first.activations[name].threshold)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_qvm_is_best_at_t_equal_l() -> None:
    """Against the quantised network: nothing is lost at T = L, something at every other T."""
    recipe, images = rb.QVM(levels=4), grid_images("VGG")
    snn = exact(rb.convert(quantised("VGG", recipe), recipe))
    with torch.no_grad():
        ann = snn.ann(images.double())
    errors = {t: float((snn(images.double(), timesteps=t) - ann).norm() / ann.norm()) for t in (1, 2, 3, 4, 5, 8, 16)}
    assert errors[4] < 1e-12
    assert all(error > 1e-3 for t, error in errors.items() if t != 4)


# -- bad input ----------------------------------------------------------------------------------------------------


def test_a_relu_network_is_sent_to_be_quantised() -> None:
    with pytest.raises(RecipeError, match=r"features\.2: is not a quantised activation.*rb\.quantise"):
        rb.convert(networks.build("VGG"), rb.Pascal(levels=4), example=grid_images("VGG")[:1])


@pytest.mark.slow
def test_levels_of_another_network() -> None:
    qnet = quantised("MLP", rb.Pascal(levels=4))
    with pytest.raises(RecipeError, match="trained with 4 levels"):
        rb.convert(qnet, rb.Pascal(levels=8))
    with pytest.raises(RecipeError, match=r"rounding 'round'"):
        rb.convert(qnet, rb.QVM(rounding="floor"))
    with pytest.raises(RecipeError, match=r"no levels for .*is not a site"):
        rb.quantise(networks.build("MLP"), rb.Pascal(levels={"nowhere": 4}), calibration=grid_images("MLP"))
    with pytest.raises(RecipeError, match="levels: are not given"):
        rb.quantise(networks.build("MLP"), rb.Pascal(), calibration=grid_images("MLP"))
    with pytest.raises(RecipeError, match="no quantised activation"):
        rb.quantise(networks.build("MLP"), rb.OPI(), calibration=grid_images("MLP"))


@pytest.mark.parametrize("levels", [0, -1, 2.5, True])
def test_impossible_levels(levels: object) -> None:
    with pytest.raises(RecipeError, match="levels"):
        rb.Pascal(levels=levels)  # type: ignore[arg-type]


def test_neurons_that_need_their_levels_as_steps() -> None:
    snn = rb.convert(quantised("MLP", rb.Pascal(levels=4)), rb.Pascal())
    with pytest.raises(
        RecipeError, match=r"cannot run for 8 steps: its T is the number of levels it was trained with, 4"
    ):
        snn(grid_images("MLP"), timesteps=8)
    assert [row.timesteps for row in rb.evaluate(snn, grid_images("MLP")).rows] == [4]
    mixed = rb.QVM(levels=mixed_levels("MLP"))
    snn = rb.convert(quantised("MLP", mixed), mixed)
    assert snn(grid_images("MLP"), timesteps=10).shape == (20, 5)
    with pytest.raises(RecipeError, match="its T would be"):
        snn(grid_images("MLP"), timesteps=4)


def test_passes_that_do_not_fit_such_neurons() -> None:
    recipe = rb.Recipe(
        name="both",
        timesteps=4,
        neuron={"kind": "pasc"},
        calibration=(rb.passes.Thresholds(),),  # type: ignore[arg-type]
    )
    for part in (
        rb.passes.Thresholds(),
        rb.passes.ScaleThresholds(),
        rb.passes.TemporalBias(batch_size=4),
        rb.passes.BiasCorrection(),
    ):
        wrong = Recipe(**{**recipe.to_dict(), "calibration": [part.model_dump()]})
        with pytest.raises(CalibrationError, match="trained activation"):
            rb.convert(quantised("MLP", rb.Pascal(levels=4)), wrong, calibration=grid_images("MLP"))


def test_the_closed_form_where_there_is_none() -> None:
    snn = copy.deepcopy(grid_snn("MLP"))
    assert snn.execution_mode == "steps"
    snn.execution = "counts"
    with pytest.raises(RecipeError, match="IntegrateFire neurons"):
        snn(grid_images("MLP"))


def test_a_recipe_whose_steps_are_not_its_neurons() -> None:
    """Neither silently T = 1 nor a T that no neuron runs for."""
    qnet, images = quantised("MLP", rb.Pascal(levels=4)), grid_images("MLP")
    for kind in ("pasc", "constant_current"):
        with pytest.raises(RecipeError, match="timesteps: is 8, but"):
            rb.convert(qnet, Recipe(name="own", timesteps=8, neuron={"kind": kind}))
    with pytest.raises(RecipeError, match="timesteps: is not given"):
        rb.convert(networks.build("MLP"), Recipe(name="own", timesteps=None), example=images)


def test_missing_data() -> None:
    with pytest.raises(DataError, match=r"calibration: is needed: RateCoding"):
        rb.convert(networks.build("MLP"), rb.RateCoding(timesteps=4))
    with pytest.raises(DataError, match="example: is needed"):
        rb.convert(networks.build("QCFSResNet"), rb.Pascal())
    with pytest.raises(DataError, match="the network was traced for"):
        quantised("MLP", rb.Pascal(levels=4))(torch.zeros(2, 3, 5, 5))


def test_a_site_that_is_never_active() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    with pytest.raises(CalibrationError, match="1: is never active"):
        rb.quantise(model, rb.QVM(levels=4), calibration=torch.randn(8, 4))


def test_unknown_rounding() -> None:
    with pytest.raises(ModelError, match="rounding"):
        rb.activations.Staircase(4, 1.0, "nearest")  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("method", [rb.Pascal, rb.QVM, rb.SlipReLU, rb.methods.QCFS])
def test_thresholds_start_at_a_number(method: Callable[..., Recipe], granularity: str) -> None:
    recipe = method(levels=4, granularity=granularity, initial_threshold=8)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    network = rb.quantise(networks.build("MLP"), recipe, calibration=grid_images("MLP"))
    for site in site_table(network.to_graph()):
        theta = network.activations[site.name].threshold.detach()
        assert torch.equal(theta, torch.full((site.channels,) if granularity == "channel" else (), 8.0))


@pytest.mark.parametrize("start", [0, -1, float("inf"), True, "median"])
def test_thresholds_that_cannot_be_a_start(start: object) -> None:
    with pytest.raises(RecipeError, match="initial_threshold"):
        rb.Pascal(levels=4, initial_threshold=start)  # type: ignore[arg-type]
