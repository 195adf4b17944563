"""Thresholds moved into the weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images, grid_snn, spike_counts
from rheobase.core.errors import RecipeError
from rheobase.graph import Graph, Node
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.rewrites.factors import rescale
from rheobase.signals.signal import Constant, Signal


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1.0, 0.7])
def test_the_same_spikes_in_float64(threshold: float) -> None:
    """On one network; on all of them in test_nir."""
    snn, images = copy.deepcopy(grid_snn("ReusedReluResNet")).double(), grid_images("ReusedReluResNet", 6).double()
    folded = rb.network.fold_thresholds(snn, threshold)
    assert {float(neuron.threshold) for neuron in folded.neurons} == {threshold}
    (before, logits), (after, again) = spike_counts(snn, images), spike_counts(folded, images)
    for site, count in before.items():
        assert torch.equal(count, after[site]), site
    torch.testing.assert_close(again, logits, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [rb.Pascal(levels=4, granularity="channel"), rb.QVM(levels=3, rounding="ceil")])
def test_neurons_that_wait(recipe: rb.Recipe) -> None:
    images = grid_images("OptionAResNet", 6)
    quantised = rb.quantise(networks.build("OptionAResNet"), recipe, calibration=images).eval()
    snn = rb.convert(quantised, recipe).double()
    folded = rb.network.fold_thresholds(snn)
    for execution in ("steps", "counts"):
        snn.execution = folded.execution = execution  # type: ignore[assignment]
        torch.testing.assert_close(folded(images.double()), snn(images.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_biases_and_potentials_move_along() -> None:
    images = grid_images("VGG")
    ftbc = rb.FTBC(timesteps=4, updates=2, iterations=1, batches=1, batch_size=16)
    for recipe in (ftbc, rb.SNNCalibration(timesteps=4, pipeline="advanced")):
        snn = rb.convert(networks.build("VGG"), recipe, calibration=images).double()
        before, logits = spike_counts(snn, images.double())
        after, again = spike_counts(rb.network.fold_thresholds(snn), images.double())
        assert all(torch.equal(before[site], after[site]) for site in before)
        torch.testing.assert_close(again, logits, rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    """Two neurons with θ = 2 and 4 between two linear layers: W' = W / θ before, W θ after."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        net[0].bias.copy_(torch.tensor([0.5, -1.0]))
        net[2].weight.copy_(torch.tensor([[5.0, 7.0]]))
        net[2].bias.zero_()
    images = torch.rand(8, 1)
    snn = rb.convert(net, rb.RateCoding(timesteps=2, threshold="max"), calibration=images)
    snn.neurons[0].threshold = torch.tensor([2.0, 4.0])
    folded = rb.network.fold_thresholds(snn)
    first, second = (node for node in folded.graph.nodes if node.operation == "linear")
    assert folded.graph.tensor(first.parameters["weight"]).tolist() == [[0.5], [0.75]]
    assert folded.graph.tensor(first.parameters["bias"]).tolist() == [0.25, -0.25]
    assert folded.graph.tensor(second.parameters["weight"]).tolist() == [[10.0, 28.0]]
    assert "folded into the weights" in folded.provenance.notes[-1]
    assert "folded" not in str(snn.provenance.notes)


def test_a_silent_channel_stays_silent() -> None:
    snn = copy.deepcopy(grid_snn("MLP"))
    silent = torch.isinf(snn.neurons[2].threshold)
    assert silent.any()
    snn.neurons[2].initial_potential = torch.tensor(1.0)  # at θ = 1 it would fire at once
    folded = rb.network.fold_thresholds(snn)
    found, _ = spike_counts(folded, grid_images("MLP"))
    assert found[snn.sites[2].name][:, silent].sum() == 0
    torch.testing.assert_close(folded(grid_images("MLP")), snn(grid_images("MLP")))


def test_twice_is_once_and_nothing_is_changed(tmp_path: Path) -> None:
    snn, images = grid_snn("ReusedReluResNet"), grid_images("ReusedReluResNet")
    before = snn(images)
    folded = rb.network.fold_thresholds(snn)
    again = rb.network.fold_thresholds(folded)
    assert [node.name for node in again.graph.nodes] == [node.name for node in folded.graph.nodes]
    assert torch.equal(again(images), folded(images))
    assert len(again.provenance.notes) == len(folded.provenance.notes)
    assert torch.equal(snn(images), before)
    rb.save(folded, tmp_path / "folded")
    assert torch.equal(rb.load(tmp_path / "folded")(images), folded(images))


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("inf"), float("nan")])
def test_thresholds_that_are_none(threshold: float) -> None:
    with pytest.raises(RecipeError, match="threshold: is"):
        rb.network.fold_thresholds(grid_snn("MLP"), threshold)


def test_a_neuron_with_something_else_in_units_of_its_threshold() -> None:
    snn = copy.deepcopy(grid_snn("MLP"))
    snn.neurons[1].register_buffer("gain", torch.ones(3))
    with pytest.raises(RecipeError, match="act2: has IntegrateFire neurons with gain"):
        rb.network.fold_thresholds(snn)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.data())
def test_any_factors_anywhere(data: st.DataObject) -> None:
    """Every node may be in units of its own; the output is the same."""
    snn = grid_snn(data.draw(st.sampled_from(["SplitPermuteNet", "UNet", "VGG"])))
    graph = Graph(snn.graph.nodes, snn.graph.output, {name: t.double() for name, t in snn.graph.tensors.items()})
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    chosen = [node for node in graph.nodes if torch.rand((), generator=generator) < 0.3]

    def factor(node: Node) -> Tensor:
        shape = () if torch.rand((), generator=generator) < 0.3 else (node.shape[0],)
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5

    after = {node.name: factor(node) for node in chosen}
    images = torch.randn(3, *graph.input_shape, generator=generator, dtype=torch.float64)
    # each chosen node gives its value divided by its factor, everything after it must not notice
    values = run_with_division(rescale(graph, after, {}), images, after)
    torch.testing.assert_close(values, graph(images), rtol=1e-9, atol=1e-9)


def run_with_division(graph: Graph, images: Tensor, factors: dict[str, Tensor]) -> Tensor:
    def divide(name: str, x: Tensor) -> Tensor:
        factor = factors.get(name)
        return x if factor is None else x / (factor.reshape(-1, *(1,) * (x.dim() - 2)) if factor.dim() else factor)

    values: dict[str, Signal] = {graph.nodes[0].name: Constant(divide(graph.nodes[0].name, images))}
    for node in graph.nodes[1:]:
        run(graph, schedule([node], keep=[n.name for n in graph.nodes]), values, graph.analog)
        values[node.name] = Constant(divide(node.name, values[node.name].mean()))
    return values[graph.output].mean()
