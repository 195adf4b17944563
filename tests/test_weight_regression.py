"""Weights fitted by linear regression, against torch's own least squares."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from conftest import grid_data, grid_snn
from rheobase.graph.operations import OPERATIONS
from rheobase.graph.operations.weighted import Weighted
from rheobase.methods import GradedNeuron
from rheobase.passes import CalibrationData, Thresholds, WeightRegression, layers


def regressed(net: nn.Module, images: Tensor, **options: object) -> tuple[rb.SpikingNetwork, rb.passes.Changes]:
    recipe = rb.Recipe(name="own", timesteps=2, neuron=GradedNeuron(magnitude=1), calibration=(Thresholds(),))
    snn = rb.convert(net, recipe, calibration=images)
    data = CalibrationData(images, images[:0], None, None, "", complete=True)
    return snn, WeightRegression(**options).apply(snn, data)  # type: ignore[arg-type]


def test_the_ridge_regression_of_a_linear_layer() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    images, ridge = torch.rand(200, 6), 0.1
    snn, changes = regressed(net, images, ridge=ridge, rounds=1)
    assert list(changes.changed.values()) == [["2.weight", "2.bias"]]
    with torch.no_grad():
        layer = next(layer for layer in layers(snn, images) if layer.site.index == 1)
        (spikes,) = (signal.mean() for signal in layer.inputs.values())
        x = torch.cat([spikes, torch.ones(200, 1)], 1).double()
        target, current = net[:3](images), net[2](spikes)
        error = torch.where((target < 0) & (current < 0), 0.0, target - current).double()
        weight = ridge * (x.T @ x).diagonal().mean()
        # ridge regression as least squares, with rows for the penalty
        rows = torch.cat([x, weight.sqrt() * torch.eye(9, dtype=torch.float64)])
        expected = torch.linalg.lstsq(rows, torch.cat([error, error.new_zeros(9, 5)])).solution.T
    for name, found in (("weight", expected[:, :8]), ("bias", expected[:, 8])):
        change = snn.graph.tensor(f"2.{name}") - getattr(net[2], name)
        torch.testing.assert_close(change, found.float(), rtol=1e-3, atol=1e-5)
    assert torch.equal(snn.ann.tensor("2.weight"), net[2].weight)


def test_errors_beyond_the_bounds_do_not_count() -> None:
    """Where both currents are negative a ReLU is right already: with all of them negative, nothing is to be fitted."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[2].bias.fill_(-100.0)
    snn, _ = regressed(net, torch.rand(50, 4))
    assert torch.equal(snn.graph.tensor("2.weight"), net[2].weight)


CONVOLUTIONS = {
    "1d": nn.Conv1d(4, 6, 3, padding=1),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "dilated": nn.Conv2d(4, 6, (3, 1), dilation=2),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": nn.Conv2d(4, 8, 3, groups=4, padding=1),
    "3d": nn.Conv3d(4, 6, 2),
    "linear": nn.Linear(4, 6),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_regressors_times_weights_are_the_products(name: str) -> None:
    layer = CONVOLUTIONS[name]
    axes = layer.weight.dim() - 2
    x = torch.randn(3, 4, *(7,) * axes) if axes else torch.randn(3, 5, 4)
    graph = rb.graph.capture(nn.Sequential(layer, nn.ReLU()), x[:2]).graph
    node = next(node for node in graph.nodes if node.operation in ("conv", "linear"))
    operation = OPERATIONS[node.operation]
    assert isinstance(operation, Weighted)
    weight = graph.tensor(node.parameters["weight"])
    regressors = operation.regressors(x, **node.attributes, weight=weight)
    assert regressors is not None
    by_group = weight.reshape(regressors.shape[1], -1, regressors.shape[2])
    ours = torch.einsum("pgf,gof->pgo", regressors, by_group).flatten(1)
    products = operation.products(x, weight, None, **node.attributes)
    expected = products.movedim(1 if axes else -1, -1).reshape(-1, len(weight))
    torch.testing.assert_close(ours, expected)


@pytest.mark.slow
def test_sub_batches_and_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))
    images = torch.rand(30, 3, 8, 8)
    whole, _ = regressed(net, images, positions=100, seed=3)
    monkeypatch.setattr("rheobase.passes.weight_regression.ELEMENTS", 1000)  # an image at a time
    parts, _ = regressed(net, images, positions=100, seed=3)
    torch.testing.assert_close(whole.graph.tensor("2.weight"), parts.graph.tensor("2.weight"))


@pytest.mark.parametrize("name", ["OptionAResNet", "MLP"])
def test_the_error_of_the_spikes_falls(name: str) -> None:
    snn, data = copy.deepcopy(grid_snn(name)), grid_data(name, held_out=False)
    before = rb.passes.calibration_pass.site_errors(snn, data.fit)
    WeightRegression().apply(snn, data)
    after = rb.passes.calibration_pass.site_errors(snn, data.fit)
    assert before is not None
    assert after is not None
    assert sum(after) < sum(before)


def test_weights_that_cannot_be_fitted_are_named() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layer, self.pooled = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.layer(torch.relu(self.layer(torch.relu(self.first(x))))))
            return torch.relu(nn.functional.avg_pool2d(self.pooled(x), 2)).flatten(1)

    snn, changes = regressed(Twice(), torch.rand(20, 3, 4, 4))
    assert not changes.changed
    assert any("several operations" in note for note in changes.notes)
    assert any("pooled" in note and "avg_pool" in note for note in changes.notes)
    assert all(torch.equal(tensor, snn.ann.tensors[name]) for name, tensor in snn.graph.tensors.items())


def test_weights_before_a_node_on_numbers_are_fitted_to_what_it_reads() -> None:
    """A layer normalisation reads the sum of a layer and its shortcut: least squares of the layer to that sum."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.c(self.norm(x + self.b(x)))

    torch.manual_seed(1)
    net, images, ridge = Residual(), torch.rand(200, 6), 0.1
    recipe = rb.Recipe(name="own", timesteps=2, neuron=GradedNeuron(magnitude=1), calibration=(Thresholds(),))
    snn = rb.convert(net, recipe, calibration=images, nonlinear="numbers", sites="all")
    data = CalibrationData(images, images[:0], None, None, "", complete=True)
    changes = WeightRegression(ridge=ridge).apply(snn, data)
    assert changes.changed == {"norm.output": ["b.weight", "b.bias"]}
    with torch.no_grad():
        layer = next(layer for layer in layers(snn, images) if layer.site.index == 1)
        (spikes,) = (signal.mean() for signal in layer.inputs.values())
        exact = torch.relu(net.a(images))
        error = (exact + net.b(exact) - (spikes + net.b(spikes))).double()
        x = torch.cat([spikes, torch.ones(200, 1)], 1).double()
        weight = ridge * (x.T @ x).diagonal().mean()
        rows = torch.cat([x, weight.sqrt() * torch.eye(9, dtype=torch.float64)])
        expected = torch.linalg.lstsq(rows, torch.cat([error, error.new_zeros(9, 8)])).solution.T
    change = snn.graph.tensor("b.weight") - net.b.weight
    torch.testing.assert_close(change, expected[:, :8].float(), rtol=1e-3, atol=1e-5)
