"""QAC: networks that learn their time-steps, from quantising to spikes."""

from __future__ import annotations

import copy
import itertools
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import networks
import rheobase as rb
from command_line import assert_refused, runner
from conftest import Stop, grid_graph, grid_images, grid_snn
from rheobase.activations.learned_staircase import PARAMETERS, Parametrisation
from rheobase.core.errors import CalibrationError, DataError, ModelError, RecipeError, TrainingError
from rheobase.graph.sites import site_table
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure.plots import site_steps, steps_plot
from rheobase.methods.qac import _relative_error
from rheobase.passes.statistics import histograms, maxima
from rheobase.training import Trained, checkpoint
from rheobase.training.loop import _optimiser
from rheobase.zoo.digits import DigitsResNet, digits

CASES: list[Parametrisation] = sorted(PARAMETERS)


@cache
def float_network() -> nn.Module:
    torch.manual_seed(0)
    data = digits()
    return rb.train(
        DigitsResNet(), data.train, rb.Training(epochs=4, learning_rate=0.05, batch_size=32), validation=None
    ).model


@cache
def quantised(recipe: rb.Recipe) -> TrainableGraph:
    return rb.quantise(float_network(), recipe, calibration=digits().train[0][:256])


@cache
def trained(case: Parametrisation) -> Trained:
    """At a rate at which the steps of the digits' network move within two epochs."""
    data = digits()
    network = quantised(rb.QAC(mean_timesteps=2.5, parametrisation=case, rate=20))
    settings = rb.Training(epochs=2, learning_rate=0.02, batch_size=32)
    return rb.train(network, data.train, settings, validation=data.validation)


def levels(network: nn.Module) -> list[int]:
    assert isinstance(network, TrainableGraph)
    return [part.levels for part in network.activations.values()]


# -- where it starts ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mean", [1, 2, 8 / 3])
def test_no_other_start_of_that_sum_has_a_smaller_error(mean: float) -> None:
    graph, images = grid_graph("MLP"), grid_images("MLP")
    network = rb.quantise(networks.build("MLP"), rb.QAC(mean_timesteps=mean), calibration=images)
    data = rb.passes.CalibrationData.pool(images).fit
    counted = histograms(graph, data, "layer", maxima(graph, data, "layer"))
    error = {t: [_relative_error(histogram, t) for histogram in counted] for t in range(1, 7)}
    budget = round(3 * mean)
    sums = {
        steps: sum(error[t][i] for i, t in enumerate(steps))
        for steps in itertools.product(range(1, 7), repeat=3)
        if sum(steps) == budget
    }
    assert sums[tuple(levels(network))] == pytest.approx(min(sums.values()))


def test_the_error_of_the_best_staircase() -> None:
    """Against the activations themselves, not their histogram, for a θ found by plain search."""
    graph, images = grid_graph("MLP"), grid_images("MLP")
    counted = histograms(graph, images, "layer", maxima(graph, images, "layer"))[0]
    seen: list[Tensor] = []
    rb.passes.statistics.observe(graph, images, lambda site, x: seen.append(x) if site.index == 0 else None)
    a = torch.cat(seen).double()
    largest = float(a.max())
    for t in (1, 3):
        thetas = [largest * (1 - 0.01 * i) for i in range(95)]
        errors = [float((a - (a * t / s + 0.5).floor().clamp(0, t) * s / t).square().sum()) for s in thetas]
        assert _relative_error(counted, t) == pytest.approx(min(errors) / float(a.square().sum()), rel=0.02)


@pytest.mark.slow
def test_what_is_quantised_already_keeps_its_thresholds() -> None:
    first = quantised(rb.Pascal(levels=4))
    again = rb.quantise(first, rb.QAC(mean_timesteps=3), calibration=digits().train[0][:64])
    for name, part in again.activations.items():
        assert torch.equal(part.saturation, first.activations[name].saturation)
    assert again.mean_timesteps == 3.0
    back = rb.quantise(again, rb.Pascal(levels=2), calibration=digits().train[0][:64])
    assert levels(back) == [2] * 5
    free = quantised(rb.QAC(mean_timesteps="free"))
    assert levels(free) == [4] * 5


# -- training -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_training_meets_the_mean_and_the_answer_converts(case: Parametrisation) -> None:
    result, (images, labels) = trained(case), digits().test
    assert [epoch.mean_timesteps for epoch in result.history] == [2.4, 2.4]  # 12 of 12.5 steps over five sites
    model = result.model
    assert isinstance(model, TrainableGraph)
    for name, part in model.activations.items():
        assert float(part.real_steps.detach()) == pytest.approx(part.levels, abs=0.01), name
    snn = rb.convert(model, rb.QAC())
    assert [snn.steps_of(site.name) for site in snn.sites] == levels(model)
    assert snn.timesteps == max(levels(model))
    assert snn.execution_mode == "counts"
    with torch.no_grad():
        answer = snn(images)
        assert torch.equal(answer, snn.ann(images))
        exact = copy.deepcopy(snn).double()
        if case != "n_d":  # its α is a product, rounded to float32 in the graph
            torch.testing.assert_close(copy.deepcopy(model).double()(images.double()), exact(images.double()))
    assert float((answer.argmax(1) == labels).float().mean()) > 0.93
    for recipe in (rb.Pascal(), rb.QVM()):
        other = rb.convert(model, recipe)
        assert torch.equal(other(images), answer)
        assert [other.steps_of(site.name) for site in other.sites] == levels(model)
        exact = copy.deepcopy(other).double()
        counts = exact(images[:20].double())
        exact.execution = "steps"
        torch.testing.assert_close(exact(images[:20].double()), counts)


@pytest.mark.slow
def test_steps_go_where_the_loss_wants_them() -> None:
    """With (t, α) and (n, α) the first site, on whose error all others stand, ends with more than the last."""
    start = levels(quantised(rb.QAC(mean_timesteps=2.5)))
    for case in ("t_alpha", "n_alpha"):
        end = levels(trained(case).model)
        assert end != start
        assert end[0] > end[-1]
    network = quantised(rb.QAC(mean_timesteps=2.5, rate=0))
    fixed = rb.train(network, digits().train, rb.Training(epochs=1, learning_rate=0.02), validation=None)
    assert levels(fixed.model) == start


@pytest.mark.slow
def test_without_a_mean_steps_grow_to_the_bound() -> None:
    """Case 3 with the equations as they stand: d falls to zero, t = α/d is held at the bound; said, and convertible."""
    recipe = rb.QAC(mean_timesteps="free", parametrisation="d_alpha", max_timesteps=6, rate=1e3)
    result = rb.train(
        quantised(recipe), digits().train, rb.Training(epochs=1, learning_rate=0.05, batch_size=32), validation=None
    )
    assert max(levels(result.model)) == 6
    assert any("L is at max_timesteps" in note for note in result.notes)
    assert any("clipped to max_timesteps" in note for note in result.notes)
    snn = rb.convert(result.model, rb.QAC())
    assert set(result.notes) <= set(snn.provenance.notes)
    assert result.history[-1].mean_timesteps == sum(levels(result.model)) / 5


def test_a_mean_of_one() -> None:
    network = quantised(rb.QAC(mean_timesteps=1))
    result = rb.train(network, digits().train, rb.Training(epochs=1, learning_rate=0.02), validation=None)
    assert levels(result.model) == [1] * 5
    (note,) = result.notes
    assert "L = 1" in note
    assert "every site" in note
    assert rb.convert(result.model, rb.QAC(mean_timesteps=1)).timesteps == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    images, labels = digits().train
    data = images[:160], labels[:160]
    settings = rb.Training(epochs=2, learning_rate=0.02, batch_size=20)
    recipe = rb.QAC(mean_timesteps=2.5, rate=50)
    whole = rb.train(quantised(recipe), data, settings, folder=tmp_path / "whole", penalty=Stop())
    with pytest.raises(KeyboardInterrupt):
        rb.train(quantised(recipe), data, settings, folder=tmp_path / "killed", penalty=Stop(11))
    rest = rb.train(quantised(recipe), data, settings, folder=tmp_path / "killed", penalty=Stop())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    assert [e.mean_timesteps for e in rest.history] == [e.mean_timesteps for e in whole.history]
    assert levels(whole.model) != levels(quantised(recipe))
    # what is learned is no part of what the run is; what it learns for, is
    assert checkpoint.activations(whole.model) == checkpoint.activations(quantised(recipe))
    for other, word in (
        (rb.QAC(mean_timesteps=2, rate=50), "activations target was StepTarget"),
        (rb.QAC(mean_timesteps=2.5, rate=40), "rates"),
        (rb.QAC(mean_timesteps=2.5, rate=50, max_timesteps=8), "max_timesteps="),
        (rb.Pascal(levels=2), "network"),
    ):
        with pytest.raises(TrainingError, match=f"another run.*{word}"):
            rb.train(quantised(other), data, settings, folder=tmp_path / "killed", penalty=Stop())


def test_no_decay_and_rates_of_their_own() -> None:
    network = quantised(rb.QAC(mean_timesteps=3, parametrisation="n_d", rate=7))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    seen = {}
    for group in _optimiser(network, rb.Training(epochs=1, learning_rate=0.1)).param_groups:
        seen |= {names[id(parameter)]: (group["weight_decay"], group["rate"]) for parameter in group["params"]}
    assert set(seen) == set(names.values())
    for name, part in network.activations.items():
        for leaf in ("bits", "step_size"):
            assert seen[f"{name}.{leaf}"] == (0.0, part.rates[leaf])
    assert seen["conv.weight"] == (5e-4, 1.0)


# -- recipes, views, command line ---------------------------------------------------------------------------------


def test_the_recipe_is_a_value() -> None:
    recipe = rb.QAC(mean_timesteps=2.5, parametrisation="n_alpha", granularity="channel")
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert rb.Recipe.from_dict({"method": "QAC", "mean_timesteps": 3}) == rb.QAC(mean_timesteps=3)
    assert hash(recipe) != hash(rb.QAC(mean_timesteps=2.5))


@pytest.mark.slow
def test_saved_and_loaded(tmp_path: Path) -> None:
    model = trained("n_d").model
    snn = rb.convert(model, rb.QAC())
    again = rb.load(rb.save(snn, tmp_path / "qac"))
    images = digits().test[0][:50]
    assert torch.equal(again(images), snn(images))
    assert site_steps(again) == site_steps(snn) == site_steps(model)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_plot_of_steps(tmp_path: Path) -> None:
    model = trained("t_alpha").model
    assert isinstance(model, TrainableGraph)
    snn = rb.convert(model, rb.QAC())
    table = site_steps(snn)
    assert list(table) == [site.name for site in snn.sites]
    assert [t for _, t in table.values()] == levels(model)
    assert set(site_steps(grid_snn("MLP")).values()) == {(None, 4)}
    steps_plot({"trained": model, "converted": snn}, tmp_path / "steps.png")
    with Image.open(tmp_path / "steps.png") as image:
        assert image.width > 400
        assert len(image.convert("L").getcolors(256) or []) > 10
    with pytest.raises(DataError, match="networks: is empty"):
        steps_plot({}, tmp_path / "steps.png")
    with pytest.raises(DataError, match="MLP: has other sites"):
        steps_plot({"digits": snn, "MLP": grid_snn("MLP")}, tmp_path / "steps.png")


@pytest.mark.slow
def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = runner(capsys)
    words = ["train", "rheobase.zoo.digits:DigitsResNet", "--data", "rheobase.zoo.digits:digits_train", "--epochs", 1]
    done = run(*words, "--out", "qac", "--method", "QAC", "--option", "mean_timesteps=3", "--json")
    assert done.code == 0, done.err
    (epoch,) = done.document["training"]["history"]
    assert epoch["mean_timesteps"] == 3.0
    snn = rb.load(tmp_path / "qac" / "network")
    assert sum(snn.steps_of(site.name) for site in snn.sites) == 15
    assert_refused(
        run(*words, "--out", "other", "--method", "QAC", "--option", "mean_timesteps=0.5"), "mean_timesteps", "Remedy"
    )
    assert_refused(run(*words, "--out", "other", "--method", "QAC"), "mean_timesteps: is not given")


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean_timesteps": 0.9}, "mean_timesteps: input should be greater than or equal to 1"),
        ({"mean_timesteps": float("nan")}, "mean_timesteps"),
        ({"mean_timesteps": "few"}, "mean_timesteps"),
        ({"mean_timesteps": 9, "max_timesteps": 8}, "mean_timesteps 9"),
        ({"parametrisation": "t_d"}, "parametrisation"),
        ({"parametrisation": "d_alpha", "granularity": "channel"}, "d_alpha"),
        ({"max_timesteps": 1}, "max_timesteps"),
        ({"rate": -1}, "rate"),
        ({"levels": 4}, "unknown field 'levels'"),
    ],
)
def test_impossible_recipes(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        rb.QAC(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_recipes_that_do_not_fit_the_network() -> None:
    model = trained("t_alpha").model
    with pytest.raises(RecipeError, match=r"mean_timesteps: is 2\b.*2\.4"):
        rb.convert(model, rb.QAC(mean_timesteps=2))
    with pytest.raises(RecipeError, match=r"no levels for relu;.*the sites are relu, block1\.relu"):
        rb.convert(model, rb.Pascal(levels={"nowhere": 3}))
    with pytest.raises(RecipeError, match=r"trained with . levels"):
        rb.convert(model, rb.Pascal(levels=31))
    with pytest.raises(RecipeError, match=r"rounding 'round'"):
        rb.convert(model, rb.QVM(rounding="floor"))
    with pytest.raises(RecipeError, match=r"mean_timesteps: is not given.*rb\.QAC\(mean_timesteps=3\)"):
        quantised(rb.QAC())
    with pytest.raises(RecipeError, match="is not a quantised activation"):
        rb.convert(float_network(), rb.QAC(), example=digits().train[0][:2])
    with pytest.raises(ModelError, match="model: learns its levels"):
        rb.methods.adapt_levels(model, digits().train, rb.Training(epochs=2, learning_rate=0.02), levels=(8, 4))  # type: ignore
    by_channel = quantised(rb.QAC(mean_timesteps=2, granularity="channel"))
    with pytest.raises(RecipeError, match="d_alpha"):
        rb.quantise(by_channel, rb.QAC(mean_timesteps=2, parametrisation="d_alpha"), calibration=digits().train[0][:64])


@pytest.mark.slow
def test_a_site_that_is_never_active() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    for mean in (2, "free"):
        with pytest.raises(CalibrationError, match="1: is never active"):
            rb.quantise(model, rb.QAC(mean_timesteps=mean), calibration=torch.randn(8, 4))  # type: ignore[arg-type]


@pytest.mark.slow
def test_training_that_diverges_names_the_parameter() -> None:
    network = copy.deepcopy(quantised(rb.QAC(mean_timesteps=2, parametrisation="n_d")))
    name = next(iter(network.activations))
    with torch.no_grad():
        network.get_parameter(f"{name}.step_size").fill_(-1.0)
    with pytest.raises(TrainingError, match=rf"{name}\.step_size is -1"):
        rb.train(network, digits().train, rb.Training(epochs=1, learning_rate=0.02))
    network = copy.deepcopy(quantised(rb.QAC(mean_timesteps=2, parametrisation="n_alpha")))
    with torch.no_grad():
        network.get_parameter(f"{name}.bits").fill_(float("nan"))
    with pytest.raises(TrainingError, match="bits holds NaN"):
        rb.train(network, digits().train, rb.Training(epochs=1, learning_rate=0.02))


@pytest.mark.slow
def test_sites_of_the_trained_network_are_those_of_its_graph() -> None:
    model = trained("n_d").model
    assert isinstance(model, TrainableGraph)
    for site in site_table(model.to_graph()):
        part = model.activations[site.name]
        assert (site.levels, site.rounding) == (part.levels, "round")
        assert torch.equal(model.to_graph().tensor(f"{site.name}.threshold"), part.saturation)
