"""Temporal-switch coding of the image against a slow reference."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.core.errors import RecipeError
from rheobase.neurons import TemporalSwitch
from rheobase.signals.signal import Constant


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=6), st.integers(1, 9), st.floats(0.25, 2, width=32))
def test_a_value_is_the_time_between_two_events(values: list[float], steps: int, theta: float) -> None:
    train = (
        TemporalSwitch(torch.tensor(theta), steps).spike_train(Constant(torch.tensor([values])), steps).values / theta
    )
    for i, x in enumerate(values):
        switch = [0.0, *train[:, 0, i].tolist(), 0.0]
        events = [t for t in range(steps + 1) if switch[t] != switch[t + 1]]
        assert len(events) in (0, 2)
        on = events[1] - events[0] if events else 0
        assert set(switch) <= {0.0, math.copysign(1.0, x)}
        if abs(x) <= theta:  # the nearest of the T values
            assert abs(theta * on / steps - abs(x)) <= theta / steps / 2 * (1 + 1e-5)
        else:
            assert on == steps


def spikes(currents: list[float], theta: float) -> list[int]:
    """Integrate and fire, V0 = 0."""
    potential, sent = 0.0, []
    for current in currents:
        potential += current
        sent.append(int(potential >= theta))
        potential -= theta if sent[-1] else 0
    return sent


def test_against_loops_over_images_and_neurons() -> None:
    """The first layer reads the switch, not the image."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double().requires_grad_(False)
    images, steps = torch.randn(10, 6, dtype=torch.float64), 5
    snn = rb.convert(net, rb.TSC(timesteps=steps), calibration=images)
    coding, hidden = snn.neurons
    for image, logits in zip(images, snn(images), strict=True):
        largest, theta = float(coding.threshold), float(hidden.threshold)
        counts = [max(-steps, min(steps, math.floor(steps * float(x) / largest + 0.5))) for x in image]
        currents = []
        for t in range(steps):
            switched = [largest * math.copysign(1, k) * (abs(k) > t) for k in counts]
            currents.append(net[0](image.new_tensor(switched)).tolist())
        rates = [theta * sum(spikes([step[c] for step in currents], theta)) / steps for c in range(8)]
        torch.testing.assert_close(logits, net[2](image.new_tensor(rates)))


def test_the_first_layer_has_additions_only(tmp_path: Path) -> None:
    images = grid_images("OptionAResNet")
    plain, coded = (
        rb.convert(networks.build("OptionAResNet"), recipe, calibration=images)
        for recipe in (rb.RMP(timesteps=4), rb.TSC(timesteps=4))
    )
    assert len(coded.sites) == len(plain.sites) + 1
    first, second = (rb.energy(snn, images).rows for snn in (plain, coded))
    assert sum(row.macs > 0 for row in first) == sum(row.macs > 0 for row in second) + 1
    assert str(coded.alphabet) == "{-1, 0, 1}"
    assert "is coded in spikes" in "".join(coded.provenance.notes)
    rb.save(coded, tmp_path / "coded")
    loaded = rb.load(tmp_path / "coded")
    assert torch.equal(loaded(images), coded(images))
    for t, logits in loaded.stream(images):
        last = t, logits
    assert last[0] == 4
    torch.testing.assert_close(last[1], coded(images))
    again = rb.convert(coded, rb.RMP(timesteps=4), calibration=images)  # the image is not coded any more
    assert [site.name for site in again.sites] == [site.name for site in plain.sites]
    assert torch.equal(again(images), plain(images))


def test_what_it_does_not_fit() -> None:
    images = grid_images("MLP")
    neuron = rb.methods.TemporalSwitchNeuron(timesteps=4)
    with pytest.raises(RecipeError, match="values that do not change with time"):
        rb.convert(networks.build("MLP"), rb.Recipe(name="all", timesteps=4, neuron=neuron), calibration=images)
    snn = rb.convert(networks.build("MLP"), rb.TSC(timesteps=4), calibration=images)
    with pytest.raises(RecipeError, match="its code is for T = 4"):
        rb.evaluate(snn, images, (8,))
    unsigned = rb.TSC(timesteps=4).replace(coding=rb.methods.IntegrateFireNeuron())
    with pytest.raises(RecipeError, match="cannot emit"):  # negative pixels
        rb.convert(networks.build("MLP"), unsigned, calibration=images)
