"""Memory traffic, worked by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.core.errors import RecipeError


def networks() -> tuple[rb.SpikingNetwork, rb.SpikingNetwork, torch.Tensor]:
    """Six inputs, three neurons, two logits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    net[0].bias.abs_()
    images = torch.rand(10, 6)
    snn = rb.convert(net, rb.RateCoding(timesteps=5), calibration=images)
    return snn, rb.integers(snn, "speck", calibration=images), images


def test_by_hand() -> None:
    for network, weight, state in zip(networks()[:2], (32, 8), (32, 16), strict=True):
        images = networks()[2]
        counted = rb.energy(network, images)
        found = rb.measure.traffic(network, images, memory="sram-8kb-45nm")
        hidden, readout = found.rows
        assert (found.weight_bits, found.state_bits) == (weight, state)
        weights = [network.graph.tensor(node.parameters["weight"]) for node in network.graph.nodes if node.parameters]
        products = int((weights[0] != 0).sum())  # of the image, once; small weights are rounded to 0
        assert products <= 18
        assert hidden.weights == products * weight / 8
        assert hidden.potentials == 2 * (products + 3 * 5) * state / 8
        events = counted.rows[0].events
        assert hidden.spikes == pytest.approx(events * 2 * 2 / 8)  # written and read, two bits for three neurons
        reached = int((weights[1] != 0).sum()) / 6  # of the two logits, if every neuron fires as often
        if reached == 1:
            assert readout.weights == pytest.approx(2 * events * weight / 8)
            assert readout.potentials == pytest.approx(2 * 2 * events * state / 8)
        assert readout.spikes == 0
        assert (hidden.ann_weights, readout.ann_weights) == (18 * weight / 8, 6 * weight / 8)
        assert (hidden.ann_activations, readout.ann_activations) == ((18 + 3) * weight / 8, 6 * weight / 8)
        assert found.picojoules == pytest.approx(1.25 * found.total)
        document = json.loads(json.dumps(found.to_json()))
        assert document["ann_picojoules"] == pytest.approx(1.25 * found.ann_total)
        assert f"{weight}-bit weights" in found.summary()


def test_bad_input() -> None:
    snn, _, images = networks()
    with pytest.raises(RecipeError, match=r"'tape' is unknown.*sram-1mb-45nm"):
        rb.measure.traffic(snn, images, memory="tape")
    with pytest.raises(RecipeError, match="byte"):
        rb.measure.Memory(name="mine", byte=-1)
