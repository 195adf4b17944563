"""SNN Calibration's corrections of bias, potential and weights, and the shift of RTS."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import networks
import rheobase as rb
from conftest import grid_data, grid_images, grid_snn
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.neurons import IntegrateFire
from rheobase.passes.held_out import Snapshot, logit_error
from rheobase.passes.layers import layers
from rheobase.passes.statistics import observe

PASSES = {
    "bias": rb.passes.BiasCorrection(images=12),
    "potential": rb.passes.PotentialCorrection(images=12),
    "weights": rb.passes.WeightCalibration(images=12, iterations=3, batch_size=8, learning_rate=1e-3),
    "regression": rb.passes.WeightRegression(ridge=1.0),
}


def activations(snn: rb.SpikingNetwork, images: Tensor) -> list[Tensor]:
    found: dict[int, list[Tensor]] = {}
    observe(snn.ann, images, lambda site, a: found.setdefault(site.index, []).append(a.clone()))
    return [torch.cat(found[site.index]) for site in snn.sites]


def means(snn: rb.SpikingNetwork, images: Tensor) -> list[Tensor]:
    """What the whole simulation emits on average over time, for every site."""
    found: dict[int, list[Tensor]] = {}
    snn.readouts(
        images, (snn.timesteps,), monitor=lambda site, train: found.setdefault(site.index, []).append(train.mean())
    )
    return [torch.cat(found[site.index]) for site in snn.sites]


# -- the layer-by-layer run ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("name", [*networks.GRID, "MaxPoolVGG"])
def test_layer_by_layer_is_the_whole_simulation(name: str, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images, snn = grid_images(name)[:6], grid_snn(name)
    expected = means(snn, images)
    seen = []
    if few:
        monkeypatch.setattr(snn, "memory_budget", 1)  # one image at a time
    for layer in layers(snn, images):
        assert torch.equal(layer.mean_output(snn), expected[layer.site.index])
        seen.extend(node.name for node in layer.nodes)
    assert len(seen) == len(set(seen))


def test_a_mean_current_is_the_mean_of_the_currents() -> None:
    snn = grid_snn("OptionAResNet")
    for layer in layers(snn, grid_images("OptionAResNet")[:4]):
        current = layer.mean_current(snn.graph, {name: signal.mean() for name, signal in layer.inputs.items()})
        stepped = torch.cat([values[layer.source].mean() for values in layer.sub_batches(snn)])
        torch.testing.assert_close(current, stepped, atol=1e-5, rtol=1e-4)


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_a_shift_counts_as_initial_potential_under_a_constant_current() -> None:
    """T times θ/(2T) is θ/2 (Deng & Gu 2021); only the moment of the first spikes differs."""
    currents = torch.linspace(-0.5, 1.5, 97).expand(8, 1, 97)[..., None].transpose(1, 3).reshape(8, 97, 1)
    shifted = IntegrateFire(torch.tensor(1.0), torch.tensor(0.0), torch.tensor([-0.5 / 8]))
    started = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5))
    a, b = (n.run(currents, n.init(currents.shape[1:], currents[0]))[0] for n in (shifted, started))
    assert torch.equal(a.sum(0), b.sum(0))
    assert bool((a.cumsum(0) <= b.cumsum(0)).all())


def test_rts_shifts_every_site_by_a_part_of_its_threshold() -> None:
    snn = rb.convert(networks.build("VGG"), rb.RTS(timesteps=4), calibration=grid_images("VGG"))
    for neuron in snn.neurons:
        expected = torch.where(neuron.threshold.isinf(), 0.0, -neuron.threshold / 8)
        assert torch.equal(neuron.bias, expected)
        assert float(neuron.initial_potential) == 0


@pytest.mark.slow
def test_thresholds_are_chosen_for_the_shift_that_follows() -> None:
    """Under a constant current θ/(2T) a step is V0 = θ/2. The authors search θ for a neuron without the shift."""
    net, images = networks.build("MLP"), grid_images("MLP")
    shifted = rb.convert(net, rb.SNNCalibration(timesteps=4), calibration=images)
    started, floor = (
        rb.convert(net, rb.RateCoding(timesteps=4, initial_potential=v0), calibration=images) for v0 in (0.5, 0.0)
    )
    assert torch.equal(shifted.neurons[0].threshold, started.neurons[0].threshold)
    assert not torch.equal(shifted.neurons[0].threshold, floor.neurons[0].threshold)


def test_bias_correction_by_hand_from_simulations_of_the_whole_network() -> None:
    """Site after site: simulate everything, subtract the channel's mean excess, go on."""
    snn, slow = (copy.deepcopy(grid_snn("VGG")) for _ in range(2))
    data = grid_data("VGG", held_out=False)
    target = activations(slow, data.fit)
    for site, neuron in zip(slow.sites, slow.neurons, strict=True):
        excess = (means(slow, data.fit)[site.index] - target[site.index]).movedim(1, 0).flatten(1).mean(1)
        neuron.bias = torch.where(neuron.threshold.isinf(), 0.0, excess)
    rb.passes.BiasCorrection().apply(snn, data)
    for quick, reference in zip(snn.neurons, slow.neurons, strict=True):
        torch.testing.assert_close(quick.bias, reference.bias, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_potential_correction_by_hand(granularity: str) -> None:
    snn = rb.convert(
        networks.build("VGG"), rb.RateCoding(timesteps=4, granularity=granularity), calibration=grid_images("VGG")
    )
    slow, data = copy.deepcopy(snn), grid_data("VGG", held_out=False)
    target = activations(slow, data.fit)
    for site, neuron in zip(slow.sites, slow.neurons, strict=True):
        missing = (target[site.index] - means(slow, data.fit)[site.index]).mean(0)
        theta = neuron.threshold.expand(site.channels).reshape(-1, *[1] * (len(site.shape) - 1))
        neuron.initial_potential = torch.where(theta.isinf(), 0.0, 0.5 + 4 * missing / theta)
    rb.passes.PotentialCorrection().apply(snn, data)
    for quick, reference in zip(snn.neurons, slow.neurons, strict=True):
        one = torch.empty(1, *reference.initial_potential.shape)
        quick_start, slow_start = quick.init(one.shape, one)[0], reference.init(one.shape, one)[0]
        torch.testing.assert_close(quick_start, slow_start, atol=1e-4, rtol=1e-4)


def test_the_staircase_is_the_neuron_under_a_constant_current() -> None:
    neuron = IntegrateFire(torch.tensor([0.7, 1.3, float("inf")]), torch.tensor(0.25), torch.tensor([0.1, -0.2, 0.0]))
    current = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    response = neuron.response(6)
    assert response is not None
    result = response.mean_with_gradient(current)
    currents = current.detach().expand(6, -1, -1)
    emitted, _ = neuron.run(currents, neuron.init(currents.shape[1:], currents[0]))
    # a sum in other order may fall on the other side of a tie
    assert float((result - emitted.mean(0)).abs().gt(1e-4).double().mean()) < 0.01
    result.sum().backward()
    effective = current.detach() - neuron.bias
    inside = (effective > 0) & (effective < neuron.threshold) & ~neuron.threshold.isinf()
    torch.testing.assert_close(current.grad, inside.float())


def test_fitted_weights_lower_the_error_of_their_layer() -> None:
    snn, data = copy.deepcopy(grid_snn("OptionAResNet")), grid_data("OptionAResNet", held_out=False)
    ann = {name: tensor.clone() for name, tensor in snn.ann.tensors.items()}
    target = activations(snn, data.fit)
    before = [float((m - a).square().mean()) for m, a in zip(means(snn, data.fit), target, strict=True)]
    changes = rb.passes.WeightCalibration(iterations=40, learning_rate=3e-3).apply(snn, data)
    after = [float((m - a).square().mean()) for m, a in zip(means(snn, data.fit), target, strict=True)]
    assert changes.changed
    assert sum(after) < sum(before)
    assert all(torch.equal(tensor, ann[name]) for name, tensor in snn.ann.tensors.items())


# -- what every pass promises ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("name", networks.GRID)
def test_never_worse_than_it_was_given(kind: str, name: str) -> None:
    snn, data = copy.deepcopy(grid_snn(name)), grid_data(name)
    original, before = Snapshot(snn), logit_error(snn, data.held_out)
    changes = PASSES[kind].apply(snn, data)
    assert logit_error(snn, data.held_out) <= before
    reverted = [note for note in changes.notes if note.startswith("reverted")]
    if reverted:
        assert not changes.changed
        assert snn.graph is original.graph
        assert not original.changed(snn)


@pytest.mark.slow
def test_calibrated_networks_save_and_load(tmp_path) -> None:  # type: ignore[no-untyped-def]
    images = grid_images("OptionAResNet")
    recipe = rb.SNNCalibration(timesteps=4, pipeline="advanced", weights=True, weight_iterations=2)
    snn = rb.convert(networks.build("OptionAResNet"), recipe, calibration=images)
    again = rb.load(rb.save(snn, tmp_path / "snn"))
    assert torch.equal(again(images), snn(images))
    assert torch.equal(again.ann(images), snn.ann(images))


def test_shared_weights_are_left_alone() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.layer(torch.relu(self.layer(x)))))

    images = torch.randn(40, 6)
    recipe = rb.SNNCalibration(timesteps=4, pipeline="advanced", weights=True, weight_iterations=2)
    snn = rb.convert(Twice(), recipe, calibration=images)
    notes = next(p for p in snn.provenance.passes if p["pass"]["kind"] == "weight_calibration")["notes"]
    assert any("used by several operations" in note for note in notes)
    assert all(torch.equal(tensor, snn.ann.tensors[name]) for name, tensor in snn.graph.tensors.items())


# -- bad input -------------------------------------------------------------------------------------------------------


def test_the_weight_stage_belongs_to_the_advanced_pipeline() -> None:
    with pytest.raises(RecipeError, match="no effect in the light pipeline"):
        rb.SNNCalibration(weights=True)


@pytest.mark.slow
def test_saturation_thresholds_need_activations_that_saturate() -> None:
    with pytest.raises(CalibrationError, match="never saturates"):
        rb.convert(networks.build("VGG"), rb.RTS(timesteps=4, threshold="saturation"), calibration=grid_images("VGG"))
    snn = rb.convert(
        networks.build("MobileNetV2"),
        rb.RTS(timesteps=4, threshold="saturation"),
        calibration=grid_images("MobileNetV2"),
    )
    assert {float(t) for neuron in snn.neurons for t in neuron.threshold} <= {6.0, float("inf")}
