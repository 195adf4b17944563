"""Local threshold balancing against a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.core.errors import CalibrationError
from rheobase.passes import CalibrationData, LocalThresholdBalancing

T = 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    return net.double().requires_grad_(False)


def converted(images: Tensor, factor: float = 1.0) -> rb.SpikingNetwork:
    snn = rb.convert(net(), rb.RateCoding(timesteps=T, threshold="max"), calibration=images)
    for neuron in snn.neurons:
        neuron.set(threshold=factor * neuron.threshold)
    return snn


def spikes(currents: list[float], theta: float) -> list[int]:
    """Integrate and fire with V0 = θ/2, at most one spike a step."""
    potential, sent = theta / 2, []
    for current in currents:
        potential += current
        sent.append(int(potential >= theta < math.inf))
        potential -= theta if sent[-1] else 0
    return sent


def by_hand(images: Tensor, thresholds: list[Tensor], rounds: int, rate: float) -> list[list[float]]:
    """Neuron for neuron, image for image."""
    layers = net()
    thetas = [[float(x) for x in one] for one in thresholds]
    for _ in range(rounds):
        trains = [[[float(x) for x in image]] * T for image in images]  # [image][step][neuron]
        analog = images
        for theta, linear in zip(thetas, (layers[0], layers[2]), strict=True):
            analog = linear(analog).relu()
            currents = [[linear(images.new_tensor(step)).tolist() for step in train] for train in trains]
            for c in [c for c in range(len(theta)) if math.isfinite(theta[c])]:
                numerator = denominator = 0.0
                for i, train in enumerate(currents):
                    z = math.fsum(step[c] for step in train) / T
                    r = theta[c] * sum(spikes([step[c] for step in train], theta[c])) / T
                    slope = r / theta[c] if z < 0 or z > theta[c] else (r - z) / theta[c]
                    numerator += (r - float(analog[i, c])) * slope
                    denominator += slope**2
                if denominator:
                    theta[c] = min(max(theta[c] - rate * numerator / denominator, theta[c] / 2), theta[c] * 2)
            trains = [
                [[theta[c] if sent else 0.0 for c, sent in enumerate(step)] for step in zip(*emitted, strict=True)]
                for emitted in (
                    [spikes([step[c] for step in train], theta[c]) for c in range(len(theta))] for train in currents
                )
            ]
    return thetas


@pytest.mark.parametrize(("rounds", "rate", "factor"), [(1, 0.5, 0.8), (1, 1.0, 0.7), (3, 0.5, 0.6)])
def test_against_loops_over_images_and_neurons(rounds: int, rate: float, factor: float) -> None:
    images = torch.rand(12, 6, dtype=torch.float64)
    snn = converted(images, factor)
    expected = by_hand(images, [neuron.threshold for neuron in snn.neurons], rounds, rate)
    LocalThresholdBalancing(rounds=rounds, rate=rate).apply(
        snn, CalibrationData(images, images[:0], None, None, "", True)
    )
    for neuron, theta in zip(snn.neurons, expected, strict=True):
        torch.testing.assert_close(neuron.threshold, torch.tensor(theta, dtype=torch.float64))


def test_thresholds_that_are_too_low_rise() -> None:
    images = torch.rand(64, 6, dtype=torch.float64)
    snn = converted(images, 0.4)
    before = rb.evaluate(snn, images, (T,)).rows[-1].logit_error
    LocalThresholdBalancing(rounds=8).apply(snn, CalibrationData.pool(images))
    assert rb.evaluate(snn, images, (T,)).rows[-1].logit_error < before


def test_it_is_undone_where_it_does_not_help_and_refuses_neurons_that_wait() -> None:
    images = torch.rand(24, 6, dtype=torch.float64)
    waiting = rb.convert(net(), rb.ParallelConversion(timesteps=T), calibration=images)
    with pytest.raises(CalibrationError, match="wait for their whole input"):
        LocalThresholdBalancing().apply(waiting, CalibrationData.pool(images))
    recipe = rb.RateCoding(timesteps=T)
    recipe = recipe.replace(calibration=(*recipe.calibration, LocalThresholdBalancing(rounds=1)))
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert rb.convert(net(), recipe, calibration=images).provenance.passes[-1]["pass"]["kind"] == (
        "local_threshold_balancing"
    )
