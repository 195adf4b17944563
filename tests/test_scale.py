"""Thresholds scaled by the logit error."""

from __future__ import annotations

import copy

import pytest
import torch

import networks
import rheobase as rb
from conftest import grid_data, grid_images, grid_snn
from rheobase.neurons import IntegrateFire
from rheobase.passes import CalibrationData, ScaleThresholds
from rheobase.passes.held_out import logit_error


def fit_only(name: str) -> CalibrationData:
    """These networks are random, so that what helps the fitted images need not help others: hold none out."""
    return grid_data(name, held_out=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*networks.GRID, "MaxPoolVGG"])
def test_the_error_falls_on_the_images_it_was_fitted_to(name: str) -> None:
    snn, data = copy.deepcopy(grid_snn(name)), fit_only(name)
    before = logit_error(snn, data.fit)
    changes = ScaleThresholds(sweeps=1).apply(snn, data)
    after = logit_error(snn, data.fit)
    assert after < before if changes.changed else after == before


@pytest.mark.slow
def test_against_a_descent_that_simulates_everything_anew() -> None:
    """What is reused (the part before the site) must not change what is chosen."""
    data = fit_only("ReusedReluResNet")
    quick, slow = (copy.deepcopy(grid_snn("ReusedReluResNet")) for _ in range(2))
    ScaleThresholds(sweeps=2, factor=1.2).apply(quick, data)
    best = logit_error(slow, data.fit)
    for factor in (1.2, 1.2**0.5):
        for neuron in slow.neurons:
            start = neuron.threshold
            for candidate in (factor, 1 / factor):
                neuron.threshold = start * candidate
                error = logit_error(slow, data.fit)
                if error < best:
                    best = error
                    break
                neuron.threshold = start
    for a, b in zip(quick.neurons, slow.neurons, strict=True):
        assert torch.equal(a.threshold, b.threshold)


@pytest.mark.parametrize("name", ["OptionAResNet", "UNet", "DenseNet"])
def test_channels_of_a_site_move_together_and_the_record_says_which(name: str) -> None:
    snn = copy.deepcopy(grid_snn(name))
    before = [neuron.threshold for neuron in snn.neurons]
    spec = ScaleThresholds(sweeps=1, factor=1.25, images=16)
    changes = spec.apply(snn, fit_only(name))
    for site, neuron, old in zip(snn.sites, snn.neurons, before, strict=True):
        ratio = (neuron.threshold / old)[~old.isinf()]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        assert min(abs(float(ratio[0]) - f) for f in (0.8, 1.0, 1.25)) < 1e-6
        assert (site.name in changes.changed) == (abs(float(ratio[0]) - 1) > 1e-6)
        assert torch.equal(neuron.threshold.isinf(), old.isinf())


@pytest.mark.slow
def test_a_site_that_is_the_output() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU())
    images = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    snn = rb.convert(model, rb.RateCoding(timesteps=4, scale=True), calibration=images)
    assert snn.provenance.passes[1]["error_after"][0] < 0.2


def test_a_small_memory_budget_is_said() -> None:
    snn = copy.deepcopy(grid_snn("OptionAResNet"))
    snn.memory_budget = 1
    changes = ScaleThresholds().apply(snn, grid_data("OptionAResNet"))
    assert "only 1 images at once" in changes.notes[0]


def test_what_makes_held_out_logits_worse_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    snn = copy.deepcopy(grid_snn("MLP"))
    before = [neuron.threshold for neuron in snn.neurons]

    def sweep(network: rb.SpikingNetwork, *rest: object) -> None:
        for neuron in network.neurons:
            neuron.threshold = neuron.threshold * 100

    monkeypatch.setattr("rheobase.passes.scale_thresholds._sweep", sweep)
    changes = ScaleThresholds().apply(snn, grid_data("MLP"))
    assert changes.changed == {}
    assert changes.notes[0].startswith("reverted")
    assert all(torch.equal(n.threshold, old) for n, old in zip(snn.neurons, before, strict=True))


def test_logit_error_against_its_definition() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    with torch.no_grad():
        ann, logits = snn.ann(images).double(), snn(images).double()
    assert logit_error(snn, images) == pytest.approx(float(((logits - ann) ** 2).sum() / (ann**2).sum()))
    assert logit_error(snn, images[:0]) == 0.0


def test_as_part_of_a_recipe() -> None:
    recipe = rb.RateCoding(timesteps=4, scale=True)
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
    snn = rb.convert(networks.build("Conv1dNet"), recipe, calibration=grid_images("Conv1dNet"))
    assert [record["pass"]["kind"] for record in snn.provenance.passes] == ["thresholds", "scale_thresholds"]
    assert isinstance(snn.neurons[0], IntegrateFire)
