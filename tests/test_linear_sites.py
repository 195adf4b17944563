"""Sites at linear outputs: ``sites="all"``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_graph, grid_images
from rheobase.core.errors import CalibrationError, RecipeError, StoreError
from rheobase.graph import Graph, capture, fold_batch_norm
from rheobase.graph.rewrites.linear_sites import add_linear_sites, remove_linear_sites
from rheobase.graph.synapses import WorkCounter
from rheobase.methods import GradedNeuron, MultiThresholdNeuron, Recipe, SignedNeuron
from rheobase.passes import (
    BiasCorrection,
    CalibrationData,
    CalibrationPass,
    LocalThresholdBalancing,
    PotentialCorrection,
    ScaleThresholds,
    SurrogateCalibration,
    TemporalBias,
    Thresholds,
    WeightCalibration,
    WeightRegression,
)
from rheobase.passes.statistics import Histogram, channel_means, histograms, maxima, percentiles
from rheobase.passes.temporal_bias import step_targets
from rheobase.passes.thresholds import least_squares
from rheobase.testing import check_pass

LINEAR = ("MobileNetV2", "SplitPermuteNet")
"""Networks of the grid in which a weighted layer reads a linear output."""
IMAGES = grid_images("MobileNetV2")


@cache
def traced(name: str = "MobileNetV2") -> Graph:
    """A network of the grid before folding; ``convert`` does not trace it again."""
    return capture(networks.build(name), grid_images(name)[:4]).graph


def recipe(timesteps: int = 4, magnitude: int = 4, *passes: CalibrationPass) -> Recipe:
    passes = passes or (Thresholds(),)
    return Recipe(name="graded", timesteps=timesteps, neuron=GradedNeuron(magnitude=magnitude), calibration=passes)


@cache
def mobile(timesteps: int = 4, magnitude: int = 4) -> rb.SpikingNetwork:
    """MobileNetV2 with spikes at its bottlenecks; tests must not change it."""
    return rb.convert(traced(), recipe(timesteps, magnitude), calibration=IMAGES, sites="all")


def linear(network: rb.SpikingNetwork) -> list[Any]:
    return [site for site in network.sites if site.lower < 0]


class Joined(nn.Module):
    """Linear outputs that reach a weighted layer through a sum, a concatenation, pooling and max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow, self.next = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.left, self.read = nn.Conv2d(4, 3, 1), nn.Conv2d(6, 4, 1)
        self.last, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(self.stem(x).relu())
        wide = (narrow + self.next(narrow)).relu()
        both = torch.cat([self.left(wide), wide[:, :3]], 1)
        x = self.read(nn.functional.avg_pool2d(both, 2))
        x = self.last(nn.functional.max_pool2d(x, 2))
        return self.fc(x.mean((2, 3)))


class Tokens(nn.Module):
    """Linear layers over the last axis, without an activation between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x).relu())).mean(1)


def before(graph: Graph, name: str) -> set[str]:
    """The operations whose values a node's value is computed from."""
    by_name = {node.name: node for node in graph.nodes}
    found: set[str] = set()
    wanted = list(by_name[name].inputs)
    while wanted:
        node = by_name[wanted.pop()]
        found.add("weighted" if "weight" in node.parameters else node.operation)
        wanted.extend(node.inputs)
    return found


# -- which values fire -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*networks.GRID, "MaxPoolVGG"])
def test_every_weighted_layer_but_the_first_receives_spikes_and_the_function_stays(name: str) -> None:
    images, graph = grid_images(name), traced(name)
    placed, notes = add_linear_sites(graph)
    folded = fold_batch_norm(placed)[0]
    assert torch.equal(folded(images), fold_batch_norm(graph)[0](images))
    assert bool(notes) == (name in LINEAR)
    work = WorkCounter(folded, spiking=True).work
    dense = {node.name for node in folded.nodes if "weight" in node.parameters and work[node.name].macs}
    assert dense == {
        node.name
        for node in folded.nodes
        if "weight" in node.parameters and not before(folded, node.name) & {"site", "weighted"}
    }
    assert remove_linear_sites(placed).nodes == graph.nodes
    again, _ = add_linear_sites(grid_graph(name)) if name in networks.GRID else (folded, [])
    assert [site.name for site in again.sites] == [site.name for site in folded.sites]


def test_a_residual_sum_fires_once_after_its_additions() -> None:
    names = [site.name for site in linear(mobile())]
    assert names == ["features.1.conv.1.output", "features.2.conv.2.output", "features.3.add.output"]
    by_name = {node.name: node for node in mobile().graph.nodes}
    assert set(by_name["features.3.add"].inputs) == {"features.2.conv.2.output", "features.3.conv.2"}
    assert by_name["features.3.conv.0.0"].inputs == ("features.2.conv.2.output",)


@pytest.mark.slow
def test_each_way_to_a_weighted_layer() -> None:
    images = torch.randn(6, 2, 8, 8)
    snn = rb.convert(Joined().eval(), recipe(), calibration=images, max_pool="gate", sites="all")
    assert [site.name for site in linear(snn)] == ["narrow.output", "left.output", "read.output", "last.output"]
    found = rb.energy(snn, images)
    assert [row.layer for row in found.rows if row.macs] == ["relu"]
    assert (
        rb.convert(snn, recipe(), calibration=images).sites
        == rb.convert(Joined().eval(), recipe(), calibration=images, max_pool="gate").sites
    )


@pytest.mark.slow
def test_channels_at_the_last_axis_are_permuted_for_the_neurons() -> None:
    model, images = Tokens().eval(), torch.randn(8, 7, 6)
    snn = rb.convert(model, recipe(8, 8), calibration=images, sites="all")
    (site,) = linear(snn)
    assert (site.name, site.shape) == ("two.output", (4, 7))
    assert snn.neuron("two.output").threshold.shape == (4,)
    with torch.no_grad():
        torch.testing.assert_close(snn(images), model(images), atol=0.1, rtol=0)
    again = rb.convert(snn, recipe(), calibration=images, sites="all")
    assert again.graph.nodes == snn.graph.nodes
    assert (
        rb.convert(snn, recipe(), calibration=images).graph.nodes
        == rb.convert(model, recipe(), calibration=images).graph.nodes
    )


# -- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_without_linear_outputs_is_refused() -> None:
    images = grid_images("MLP")
    with pytest.raises(RecipeError, match=r"sites: is 'all', which changes nothing.*Remedy: leave it out"):
        rb.convert(traced("MLP"), recipe(), calibration=images, sites="all")
    with pytest.raises(RecipeError, match="sites: is 'some'"):
        rb.convert(traced("MLP"), recipe(), calibration=images, sites="some")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="changes nothing"):
        rb.inspect(traced("MLP"), images, sites="all")


@pytest.mark.parametrize("method", [rb.RateCoding, rb.Burst, rb.ParallelConversion, rb.OPI, rb.FTBC])
def test_neurons_that_give_nothing_negative_are_refused(method: Any) -> None:
    with pytest.raises(RecipeError, match=r"features\.1\.conv\.1\.output: has negative values.*rb.Graded.*activations"):
        rb.convert(traced(), method(timesteps=2), calibration=IMAGES, sites="all")


@pytest.mark.slow
@pytest.mark.parametrize("method", [rb.Pascal, rb.QVM])
def test_methods_of_quantised_networks_are_refused(method: Any) -> None:
    quantised = rb.quantise(networks.build("MobileNetV2"), method(levels=4), calibration=IMAGES)
    with pytest.raises(RecipeError, match=r"output: is a linear output without levels.*rb\.Graded"):
        rb.convert(quantised, method(), calibration=IMAGES, sites="all")


def test_the_choice_is_recorded_saved_and_shown(tmp_path: Path) -> None:
    snn = mobile()
    assert snn.provenance.sites == "all"
    assert sum(note.endswith("a site with signed spikes") for note in snn.provenance.notes) == 3
    again = rb.load(rb.save(snn, tmp_path / "net"))
    assert again.provenance.sites == "all"
    assert again.sites == snn.sites
    assert torch.equal(again(IMAGES), snn(IMAGES))
    assert rb.convert(again, recipe(), calibration=IMAGES).provenance.sites == "activations"


def test_inspection_shows_linear_outputs() -> None:
    found = rb.inspect(traced(), IMAGES[:2], sites="all")
    assert len(found.sites) == 10
    assert sum("is linear and read by a weighted layer" in note.text for note in found.rewrites) == 3
    assert str(found).count("signed, no limit") == 3
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [site["lower"] for site in document["sites"]].count(None) == 3


def test_the_activation_satisfies_its_contract() -> None:
    x = torch.randn(3, 4, 2)
    graph = mobile().ann
    node = next(node for node in graph.sites if node.attributes["activation"] == "identity")
    assert torch.equal(graph.activate(node, x), x)


# -- statistics and thresholds -----------------------------------------------------------------------------------------


def test_statistics_of_signed_sites_are_of_magnitudes() -> None:
    graph = mobile().ann
    index = linear(mobile())[0].index
    values: list[Tensor] = []
    graph.on_means(IMAGES, lambda node, z, overwrite: values.append(graph.activate(node, z).clone()) or values[-1])
    a = values[index].movedim(1, 0).flatten(1)
    assert float(a.min()) < 0
    assert torch.equal(maxima(graph, IMAGES, "channel")[index], a.abs().amax(1))
    middle = a.abs().flatten().sort().values[a.numel() // 2 - 1]
    assert float(percentiles(graph, IMAGES, "layer", 50)[index]) == float(middle)
    histogram = histograms(graph, IMAGES, "layer", maxima(graph, IMAGES, "layer"))[index]
    below = histogram.counts[:, : histogram.bins].sum()
    assert int(below) == int((a < 0).sum())
    assert int(histogram.counts.sum()) == int((a != 0).sum())
    ceiling = a.abs().amax(1) / 2
    unlimited = torch.tensor(float("inf"))
    ceilings = [ceiling if i == index else unlimited for i in range(len(values))]
    expected = a.double().clamp(-ceiling.double().unsqueeze(1), ceiling.double().unsqueeze(1)).mean(1)
    torch.testing.assert_close(channel_means(graph, IMAGES, ceilings)[index], expected)


@pytest.mark.slow
@given(seed=st.integers(0, 1000), levels=st.integers(1, 16), potential=st.sampled_from([0.0, 0.5, 1.0]))
def test_least_squares_of_a_signed_activation_beats_every_candidate(seed: int, levels: int, potential: float) -> None:
    """Against brute force on the raw values, in float64; bins are fine enough that the choice costs under 2 %."""
    a = torch.randn(400, generator=torch.Generator().manual_seed(seed)).double() + 0.3
    largest = float(a.abs().max())
    histogram = Histogram(torch.tensor([largest]), signed=True)
    histogram.update(a.float().unsqueeze(0))

    def error(saturation: float) -> float:
        count = torch.clamp(torch.floor(a * levels / saturation + potential), -levels, levels)
        return float((a - saturation / levels * count).square().sum())

    best = min(error(largest * (1 - 0.01 * i)) for i in range(95))
    assert error(float(least_squares(histogram, levels, potential)[0])) <= best * 1.02 + 1e-6


@pytest.mark.slow
@given(seed=st.integers(0, 1000), levels=st.integers(1, 16), model=st.sampled_from([0.5, None]))
def test_a_mirrored_activation_has_the_same_threshold(seed: int, levels: int, model: float | None) -> None:
    a = torch.randn(1, 300, generator=torch.Generator().manual_seed(seed)) + 0.5
    found = []
    for values in (a, -a):
        histogram = Histogram(a.abs().amax(1), signed=True)
        histogram.update(values)
        found.append(float(least_squares(histogram, levels, model)))
    # a value on the edge of a bin is in the next bin when it is mirrored, so the next candidate may be chosen
    assert found[0] == pytest.approx(found[1], rel=0.011)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_thresholds_of_signed_sites(method: Any) -> None:
    snn = rb.convert(traced(), recipe(4, 2, Thresholds(method=method)), calibration=IMAGES, sites="all")
    for site in linear(snn):
        neuron = snn.neuron(site.name)
        assert neuron.capacity(4) == (-8, 8)
        assert bool(neuron.threshold.isfinite().all())
        assert neuron.response(4).lower == -8
    with pytest.raises(CalibrationError, match="output: has an activation that never saturates"):
        Thresholds(method="saturation").apply(snn, CalibrationData.pool(IMAGES))


@pytest.mark.slow
def test_only_a_channel_of_zeros_is_silent() -> None:
    model = Tokens().eval()
    with torch.no_grad():
        model.two.weight[0], model.two.bias[0] = 0.0, 0.0
        model.two.weight[1], model.two.bias[1] = 0.0, -1.0
    images = torch.randn(8, 7, 6)
    snn = rb.convert(model, recipe(), calibration=images, sites="all")
    threshold = snn.neuron("two.output").threshold
    assert threshold.isinf().tolist() == [True, False, False, False]
    assert any("two.output: channels 0 never active" in note for note in snn.provenance.passes[0]["notes"])
    emitted: dict[str, Tensor] = {}
    snn.readouts(images, (4,), monitor=lambda site, signal: emitted.__setitem__(site.name, signal.mean()))
    torch.testing.assert_close(emitted["two.output"][:, 1], torch.full((8, 7), -1.0), atol=0.1, rtol=0)


def test_targets_of_negative_means_ramp_like_positive_ones() -> None:
    mean, ceiling = torch.tensor([0.2, 0.9, 0.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert torch.equal(step_targets(-mean, ceiling, 4, 0.5), -step_targets(mean, ceiling, 4, 0.5))
    assert float(step_targets(-mean, ceiling, 4, 0.5).abs().max()) <= 1


# -- passes ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "one",
    [
        Thresholds(method="max"),
        BiasCorrection(images=8),
        PotentialCorrection(images=8),
        LocalThresholdBalancing(images=4, rounds=1),
        ScaleThresholds(images=4, sweeps=1),
        TemporalBias(batch_size=8, batches=1, iterations=1, ramp=0.5),
        WeightRegression(positions=256),
        WeightCalibration(iterations=2, images=8),
        SurrogateCalibration(epochs=1, batch_size=8),
    ],
    ids=lambda one: one.kind,
)
def test_passes_work_on_signed_sites(one: CalibrationPass) -> None:
    check_pass(one, mobile(2, 2), CalibrationData.pool(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("one", [BiasCorrection(images=16), WeightRegression(ridge=1.0)], ids=lambda one: one.kind)
def test_corrections_lower_the_mean_error_of_signed_sites(one: CalibrationPass) -> None:
    plain = mobile(2, 2)
    snn = rb.convert(traced(), recipe(2, 2, Thresholds(), one), calibration=IMAGES, sites="all")
    fit = CalibrationData.pool(IMAGES).fit

    def errors(network: rb.SpikingNetwork) -> Tensor:
        found: dict[str, Tensor] = {}
        network.readouts(fit, (2,), monitor=lambda site, signal: found.__setitem__(site.name, signal.mean()))
        targets = channel_means(network.ann, fit)
        return torch.stack([(found[s.name].mean((0, 2, 3)) - targets[s.index]).abs().mean() for s in linear(network)])

    if "kept" in snn.provenance.passes[1]["notes"][-1]:
        pytest.fail("the pass was reverted")
    assert bool((errors(snn) < errors(plain)).all())


# -- measurements ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("part", [GradedNeuron, SignedNeuron, MultiThresholdNeuron])
def test_many_steps_give_the_analog_network(part: Any) -> None:
    fine = Thresholds(method="max", granularity="layer")
    made = Recipe(name="fine", timesteps=64, neuron=part(magnitude=16), calibration=(fine,))
    snn = rb.convert(traced(), made, calibration=IMAGES, sites="all")
    with torch.no_grad():
        exact = snn.ann(IMAGES)
        assert float((snn(IMAGES) - exact).abs().max()) < 0.02 * float(exact.abs().max())


def test_no_layer_but_the_first_multiplies_and_the_analog_energy_stays() -> None:
    some = rb.convert(traced(), recipe(), calibration=IMAGES)
    before, after = rb.energy(some, IMAGES), rb.energy(mobile(), IMAGES)
    assert [row.layer for row in after.rows if row.macs] == ["features.0.2"]
    assert len([row for row in before.rows if row.macs]) == 4
    assert after.ann_macs == before.ann_macs
    assert after.ann_picojoules == before.ann_picojoules
    assert {row.layer for row in after.rows if row.spikes} == {site.name for site in mobile().sites}


def test_diagnosis_of_signed_sites() -> None:
    found = rb.diagnose(mobile(), IMAGES)
    for site in linear(mobile()):
        row = found.rows[site.index]
        assert row.error.mean == pytest.approx(sum(term.mean for term in row.terms.values()), abs=1e-6)
        assert row.activation > abs(row.error.mean)
        assert row.relative < 1
        assert row.dead_in_ann == ()
        level = float(mobile().neuron(site.name).threshold.max()) / 4
        assert row.terms["quantisation"].size <= level / 2


def test_saturation_of_signed_sites_is_counted_at_both_ends() -> None:
    snn = rb.convert(traced(), recipe(), calibration=IMAGES, sites="all")
    site = linear(snn)[0]
    snn.neuron(site.name).set(threshold=torch.full((site.channels,), 1e-3))
    row = rb.diagnose(snn, IMAGES).rows[site.index]
    assert row.saturated > 0.9
    assert row.terms["clipping"].size == pytest.approx(row.activation, rel=0.2)


def test_unevenness_and_distribution_of_signed_sites() -> None:
    snn, index = mobile(), linear(mobile())[0].index
    row = rb.measure.unevenness(snn, IMAGES).rows[index]
    assert row.relative is not None
    assert 0 <= row.relative < 1
    shown = rb.measure.distribution(snn, IMAGES, bins=20).rows[index]
    assert shown.edges[0] == -shown.edges[-1]
    assert sum(shown.ann.counts[:10]) > 0
    assert shown.ann.zero + sum(shown.ann.counts) == shown.snn.zero + sum(shown.snn.counts)
    assert shown.distance < shown.ann.std


def test_latency_streams_through_linear_outputs() -> None:
    assert (rb.latency(mobile()).first, rb.latency(mobile()).final) == (1, 4)


@pytest.mark.slow
def test_nir_export_names_linear_outputs(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    with pytest.raises(StoreError, match="Graded neurons, for which NIR has no node"):
        rb.exchange.export_nir(mobile(), tmp_path / "net.nir")
    done = rb.exchange.export_nir(mobile(), tmp_path / "net.nir", approximate=True)
    assert sum("linear output with negative spikes" in loss.what for loss in done.losses) == 3
    again = rb.exchange.import_nir(tmp_path / "net.nir")
    assert torch.equal(again(IMAGES), mobile()(IMAGES))
