"""Maxima, exact percentiles and least-squares thresholds: against NumPy and brute force, in any batch order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
import rheobase as rb
from conftest import grid_graph, grid_images
from rheobase.core.errors import CalibrationError, DataError
from rheobase.data.calibration_data import CalibrationData
from rheobase.passes.statistics import Histogram, exact_percentiles, maxima, observe, percentiles, rows
from rheobase.passes.thresholds import least_squares


def in_pieces(x: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    edges = sorted({0, x.shape[1], *(c % (x.shape[1] + 1) for c in cuts)})
    return [x[:, a:b] for a, b in itertools.pairwise(edges)]


@given(
    values=st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60),
    percentile=st.sampled_from([0.1, 1.0, 50.0, 99.0, 99.9, 100.0]),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_percentile_is_exact_in_any_batches(values: list[float], percentile: float, cuts: list[int]) -> None:
    x = torch.tensor([values, values[::-1]])
    sub_batches = list(reversed(in_pieces(x, cuts)))
    (found,) = exact_percentiles(lambda visit: [visit(0, part) for part in sub_batches], [2], percentile)
    # the smallest value with at least percentile % of the values at or below it
    rank = max(1, -(-len(values) * round(percentile * 10_000) // 1_000_000))
    expected = float(np.sort(np.array(values, dtype=np.float32))[rank - 1])
    assert found.tolist() == [expected, expected]


def test_percentile_agrees_with_numpy() -> None:
    x = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0)).square()
    for percentile in (12.5, 50, 75):  # exact in binary: NumPy rounds 99.9 % of 5000 up to 4996
        (found,) = exact_percentiles(lambda visit: visit(0, x), [3], percentile)
        expected = np.percentile(x.numpy(), percentile, axis=1, method="inverted_cdf")
        assert np.array_equal(found.numpy(), expected)


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_a_histogram_does_not_depend_on_batches(seed: int, cuts: list[int]) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)).relu()
    one, many = Histogram(x.amax(1)), Histogram(x.amax(1))
    one.update(x)
    for sub_batch in reversed(in_pieces(x, cuts)):
        many.update(sub_batch)
    assert torch.equal(one.counts, many.counts)
    assert int(one.counts.sum()) == int((x > 0).sum())


@given(
    seed=st.integers(0, 1000),
    timesteps=st.integers(1, 16),
    potential=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_least_squares_beats_every_candidate(seed: int, timesteps: int, potential: float) -> None:
    """Against brute force on the raw values, in float64; bins are fine enough that the choice costs under 2 %."""
    a = torch.randn(400, generator=torch.Generator().manual_seed(seed)).relu().double()
    if float(a.max()) == 0:
        return
    histogram = Histogram(a.max().reshape(1).float())
    histogram.update(a.float().unsqueeze(0))

    def error(theta: float) -> float:
        count = torch.clamp(torch.floor(a * timesteps / theta + potential), 0, timesteps)
        return float((a - theta / timesteps * count)[a > 0].square().sum())

    best = min(error(float(a.max()) * (1 - 0.01 * i)) for i in range(95))
    chosen = error(float(least_squares(histogram, timesteps, potential)[0]))
    assert chosen <= best * 1.02 + 1e-6


def test_observed_activations_are_the_networks_own() -> None:
    model, images = networks.build("MLP"), grid_images("MLP")
    seen: dict[str, torch.Tensor] = {}
    observe(grid_graph("MLP"), images, lambda site, x: seen.__setitem__(site.name, x))
    hooked: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(lambda m, i, o: hooked.append(o.detach()))
    with torch.no_grad():
        model(images)
    first = min(seen, key=lambda name: list(seen).index(name))
    torch.testing.assert_close(seen[first], hooked[0])


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
@pytest.mark.parametrize("name", ["MLP", "Conv1dNet", "OptionAResNet"])
def test_thresholds_do_not_depend_on_how_the_loader_batches(name: str, method: str, granularity: str) -> None:
    model, images = networks.build(name), grid_images(name)
    recipe = rb.RateCoding(timesteps=4, threshold=method, granularity=granularity)
    one = rb.convert(model, recipe, calibration=images)
    many = rb.convert(model, recipe, calibration=list(images.split(3)))
    for a, b in zip(one.neurons, many.neurons, strict=True):
        assert a.threshold.dim() == (1 if granularity == "channel" else 0)
        assert torch.equal(a.threshold, b.threshold)


def test_layer_statistics_are_over_all_channels() -> None:
    graph, images = grid_graph("VGG"), grid_images("VGG")
    for layer, channel in zip(maxima(graph, images, "layer"), maxima(graph, images, "channel"), strict=True):
        assert float(layer) == float(channel.max())
    for half, whole in zip(
        percentiles(graph, images, "layer", 50), percentiles(graph, images, "layer", 100), strict=True
    ):
        assert float(half) <= float(whole)


def test_rows() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert rows(x, "channel").tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert rows(x, "layer").shape == (1, 12)


def dead_channel_model() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    model[0].weight.data[1], model[0].bias.data[1] = 0.0, -1.0
    return model


@pytest.mark.slow
@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_a_dead_channel_is_named_and_stays_silent(method: str) -> None:
    images = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    snn = rb.convert(dead_channel_model(), rb.RateCoding(timesteps=4, threshold=method), calibration=images)
    assert snn.neurons[0].threshold.isinf().tolist() == [False, True, False]
    (note,) = snn.provenance.passes[0]["notes"]
    assert note.startswith("1: channels 1 never active")
    spikes: list[torch.Tensor] = []
    logits = snn.readouts(100 * images, (4,), monitor=lambda site, train: spikes.append(train.values))
    assert torch.equal(torch.cat(spikes, 1)[:, :, 1], torch.zeros(4, 30))
    assert bool(torch.isfinite(logits).all())


def test_a_mostly_zero_channel_falls_back_to_its_maximum() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 2))
    model[0].weight.data[:], model[0].bias.data[:] = 1.0, 0.0
    images = torch.full((50, 1), -1.0)
    images[::10] = 2.0
    snn = rb.convert(model, rb.RateCoding(timesteps=2, threshold="percentile", percentile=50), calibration=images)
    assert snn.neurons[0].threshold.tolist() == [2.0]
    assert "maximum used" in snn.provenance.passes[0]["notes"][0]


def test_overflowing_activations_name_the_first_site() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)
    )
    model[0].weight.data[:], model[2].weight.data[:] = 1.0, 3e38
    data = torch.full((10, 2), 1e3)
    data[:4] = 0  # the traced example is harmless
    graph = rb.graph.capture(model, torch.zeros(1, 2)).graph
    with pytest.raises(CalibrationError, match=r"^3: receives NaN or infinite"):
        observe(graph, data + 1, lambda site, x: None)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ([], "is empty"),
        (torch.zeros(0, 3), "is empty"),
        (torch.full((4, 3), float("nan")), "image 0 holds NaN"),
        (torch.zeros(4, 3, dtype=torch.uint8), "uint8"),
        ([torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 4)], "mixes shapes"),
        ((torch.zeros(4, 3), torch.zeros(3)), "4 images but 3 labels"),
        (["x"], "yields str"),
        (7, "is a int"),
    ],
)
def test_bad_calibration_data(data: object, word: str) -> None:
    with pytest.raises(DataError, match=word):
        CalibrationData.pool(data)  # type: ignore[arg-type]


def test_the_split_is_seeded_and_disjoint() -> None:
    images = torch.arange(20.0).unsqueeze(1)
    a, b, c = (CalibrationData.pool(images, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.fit, b.fit)
    assert not torch.equal(a.fit, c.fit)
    assert sorted([*a.fit.flatten().tolist(), *a.held_out.flatten().tolist()]) == list(range(20))
    assert len(a.held_out) == 4


def test_a_sample_is_said() -> None:
    images, recipe = torch.randn(20, 4), rb.RateCoding(timesteps=2)
    snn = rb.convert(dead_channel_model(), recipe, calibration=images.split(4), num_calibration_images=10)
    assert snn.provenance.calibration["images"] == 10
    assert any("a random sample of 10 of 20 images" in note for note in snn.provenance.notes)
