"""The unevenness error against plain loops, worked by hand, and where it must be zero."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.core.errors import DataError, StoreError
from rheobase.measure.plots import unevenness_plot
from rheobase.neurons import ConstantCurrent, IntegrateFire, Pasc
from rheobase.signals.signal import Constant, TimeSeries
from tables import drawn


def layers(*weights: list[list[float]], threshold: float, levels: int) -> nn.Module:
    """Dense layers without bias, a quantised activation after each but the last."""
    parts: list[nn.Module] = []
    for i, values in enumerate(weights):
        linear = nn.Linear(len(values[0]), len(values), bias=False)
        linear.weight = nn.Parameter(torch.tensor(values))
        parts += [linear] if i == len(weights) - 1 else [linear, rb.QCFS(levels, threshold)]
    return nn.Sequential(*parts).eval()


def integrate_fire(model: nn.Module, images: torch.Tensor, timesteps: int) -> rb.SpikingNetwork:
    recipe = rb.RateCoding(timesteps=timesteps, threshold="saturation", granularity="layer")
    return rb.convert(model, recipe, calibration=images)


def test_worked_by_hand() -> None:
    # θ = 1, V0 = ½, T = 4. First site, constant currents ½ and ½: u = 1 fires, ½, 1 fires, ½: spikes at steps 1, 3;
    # with current ¼: u = ¾, 1 fires, ¼, ½: a spike at step 2.
    # Second site, weights (2, -4): I = 2, -4, 2, 0; mean 0.
    #   really: u = 2½ fires, 1½ - 4 = -2½, -½, -½: N = 1. Evenly: u = ½ at every step: M = 0.
    # ξ = ¼·|1 - 0|, nothing under the even current. The activation of z = 0 is 0.
    model = layers([[0.5], [0.25]], [[2.0, -4.0]], [[1.0]], threshold=1.0, levels=4)
    images, calibration = torch.ones(1, 1), torch.tensor([[1.0], [1.4]])  # at 1.4 the second site is active
    result = rb.measure.unevenness(integrate_fire(model, calibration, 4), images)
    first, second = result.rows
    assert (first.error, first.relative, first.changed, first.ann_error, first.neurons) == (0, 0, 0, 0, 2)
    assert (second.error, second.relative, second.changed, second.ann_error) == (0.25, None, 1.0, 0.25)
    assert result.error == pytest.approx(0.25 / 3)
    # Weights (1, 1) instead: I = 1, 1, 1, 0; really u = 1½, 1½, 1½, ½ : N = 3; evenly ¾ a step: u = 1¼, 1, ¾, 1½: M = 3
    model = layers([[0.5], [0.25]], [[1.0, 1.0]], [[1.0]], threshold=1.0, levels=4)
    second = rb.measure.unevenness(integrate_fire(model, images, 4), images).rows[1]
    assert (second.error, second.relative, second.changed, second.ann_error) == (0, 0, 0, 0)


def slow_spikes(currents: list[float], theta: float, potential: float) -> int:
    v, count = potential * theta, 0
    for current in currents:
        v += current
        if v >= theta:
            v -= theta
            count += 1
    return count


def slow_trains(currents: list[float], theta: float, potential: float) -> list[float]:
    return [
        theta * (slow_spikes(currents[: t + 1], theta, potential) - slow_spikes(currents[:t], theta, potential))
        for t in range(len(currents))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", [4, 6])
def test_against_plain_loops(timesteps: int) -> None:
    """Python floats; all numbers are multiples of 1/64, and no potential lies within rounding of θ = 1.3."""
    g = torch.Generator().manual_seed(1)
    theta, sizes = 1.3, [3, 5, 6, 2]
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [(torch.randint(-96, 128, shape, generator=g) / 64).tolist() for shape in shapes]
    images = torch.randint(-64, 128, (7, 3), generator=g) / 64
    model = layers(*weights, threshold=theta, levels=4)
    snn = integrate_fire(model, images, timesteps)
    theta = float(snn.neuron(snn.sites[0].name).amplitude)
    expected = []
    for image in images.tolist():
        trains, activations, sites = [[x] * timesteps for x in image], image, []
        for matrix in weights[:-1]:
            currents = [
                [sum(w * train[t] for w, train in zip(row, trains, strict=True)) for t in range(timesteps)]
                for row in matrix
            ]
            found = []
            sums = [sum(w * a for w, a in zip(row, activations, strict=True)) for row in matrix]
            activations = [theta / 4 * min(max(math.floor(z * 4 / theta + 0.5), 0), 4) for z in sums]
            for current, activation in zip(currents, activations, strict=True):
                n = slow_spikes(current, theta, 0.5)
                m = slow_spikes([math.fsum(current) / timesteps] * timesteps, theta, 0.5)
                rate = theta * n / timesteps
                found.append((theta * abs(n - m) / timesteps, theta * m / timesteps, n != m, abs(activation - rate)))
            sites.append(found)
            trains = [slow_trains(current, theta, 0.5) for current in currents]
        expected.append(sites)
    result = rb.measure.unevenness(snn, images)
    assert result.images == 7
    for i, row in enumerate(result.rows):
        flat = [neuron for sites in expected for neuron in sites[i]]
        error, even, changed, ann_error = (math.fsum(column) for column in zip(*flat, strict=True))
        assert row.error == pytest.approx(error / len(flat))
        assert row.relative == pytest.approx(error / even)
        assert row.changed == changed / len(flat)
        assert row.ann_error == pytest.approx(ann_error / len(flat))
    assert result.rows[0].error == 0 < result.rows[1].error


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 12), held=st.booleans(), bias=st.sampled_from([None, 1, 2]))
def test_nothing_changes_under_a_constant_current(seed: int, steps: int, held: bool, bias: int | None) -> None:
    g = torch.Generator().manual_seed(seed)
    current = 3 * torch.randn(2, 3, 4, generator=g)
    current[0, 0] = torch.arange(4) / steps  # where only the same additions in the same order give the same count
    currents = current.expand(steps, *current.shape)
    signal = Constant(current) if held else TimeSeries(currents.clone())
    drawn = None if bias is None else torch.randn(3, generator=g)
    neuron = IntegrateFire(
        torch.rand(3, generator=g) + 0.1, torch.rand((), generator=g), drawn.expand(steps, 3) if bias == 2 else drawn
    )
    emitted, _ = neuron.run(currents, neuron.init(current.shape, current))
    assert torch.equal(neuron.under_constant_current(signal, steps).values, emitted)


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 12), levels=st.sampled_from([1, 3, 4, 8]))
def test_neurons_that_wait_do_not_see_the_order(seed: int, steps: int, levels: int) -> None:
    # multiples of 1/64, so that sums do not depend on their order
    train = TimeSeries(torch.randint(-128, 192, (steps, 2, 3, 4), generator=torch.Generator().manual_seed(seed)) / 64)
    for neuron in (ConstantCurrent(torch.tensor(1.25), levels), Pasc(torch.tensor(1.25), levels)):
        even = neuron.under_constant_current(train, levels).values
        assert torch.equal(even.sum(0), neuron.fire(train, levels).sum(0))


def test_a_bias_is_part_of_what_is_spread() -> None:
    # I - b = 2, -1, 0, 0 really; ¼ at every step evenly: u = ¾, 1 fires, ¼, ½
    neuron = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5), torch.tensor([[-1.0], [2.0], [0.5], [1.5]]))
    train = TimeSeries(torch.tensor([1.0, 1.0, 0.5, 1.5]).reshape(4, 1, 1))
    assert neuron.under_constant_current(train, 4).values.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [rb.QVM(), rb.QVM(timesteps=6), rb.Pascal()], ids=["QVM", "QVM T=6", "Pascal"])
def test_window_networks_have_none(recipe: rb.Recipe) -> None:
    images = grid_images("MLP")
    net = rb.quantise(networks.build("MLP"), rb.QVM(levels=4), calibration=images)
    snn, spiking = rb.convert(net, recipe), integrate_fire(net, images, 4)
    result, plain = rb.measure.unevenness(snn, images), rb.measure.unevenness(spiking, images)
    assert [row.error for row in result.rows] == [0, 0, 0]
    assert [row.changed for row in result.rows] == [0, 0, 0]
    assert plain.rows[0].error == result.error == 0 < plain.error
    if recipe.timesteps is None:
        assert max(row.ann_error for row in result.rows) == 0 < plain.rows[1].ann_error
    else:
        assert result.rows[1].ann_error > 0
        assert {row.timesteps for row in result.rows} == {6}


@pytest.mark.parametrize("name", ["MaxPoolVGG", "QCFSResNet", "MLP"])
def test_it_does_not_depend_on_batches(name: str) -> None:
    images = grid_images("VGG" if name == "MaxPoolVGG" else name)
    if name == "MaxPoolVGG":
        snn = rb.convert(networks.build(name), rb.RateCoding(timesteps=4), calibration=images, max_pool="gate")
    elif name == "MLP":
        snn = rb.convert(networks.build(name), rb.FTBC(timesteps=4, batch_size=8, iterations=2), calibration=images)
    else:
        snn = grid_snn(name)
    whole = rb.measure.unevenness(snn, images)
    parts = rb.measure.unevenness(snn, [images[:3], images[3:4], (images[4:], torch.zeros(len(images) - 4))])
    assert whole.images == parts.images == len(images)
    assert any(row.error > 0 for row in whole.rows)
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert one.changed == other.changed
        assert one.error == pytest.approx(other.error)
        assert math.isfinite(one.error)
        assert math.isfinite(one.ann_error)


def test_it_leaves_the_network_as_it_was() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    before = snn(images)
    rb.measure.unevenness(snn, images)
    assert torch.equal(snn(images), before)


def test_tables_and_plots(tmp_path: Path) -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    result = rb.measure.unevenness(snn, images)
    written = json.loads(json.dumps(result.to_json()))
    assert written["rows"][1]["error"] == result.rows[1].error
    assert written["error"] == result.error
    table = str(result).splitlines()
    assert len(table) == 2 + len(snn.sites)
    assert all(line.count("|") == table[0].count("|") for line in table)
    unevenness_plot({"one": result, "two": result}, tmp_path / "unevenness.png")
    assert drawn(tmp_path / "unevenness.png")
    with pytest.raises(DataError, match="results: is empty"):
        unevenness_plot({}, tmp_path / "x.png")
    other = rb.measure.unevenness(grid_snn("QCFSResNet"), grid_images("QCFSResNet"))
    with pytest.raises(DataError, match="two: has other sites"):
        unevenness_plot({"one": result, "two": other}, tmp_path / "x.png")
    with pytest.raises(StoreError, match="end the name in"):
        unevenness_plot({"one": result}, tmp_path / "x.foo")
