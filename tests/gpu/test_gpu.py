"""The whole library on a GPU: ``pytest -m gpu tests/gpu`` on a machine that has one.

Whole numbers and float64 must give what the CPU gives; in float32 a potential near its threshold may fall on either
side of it. ``RHEOBASE_TEST_DEVICE=cpu`` runs the same code without a GPU, to try the tests themselves.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.core.devices import find_device
from test_compare import TRAINING, compared, numbers

NAME = os.environ.get("RHEOBASE_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(NAME == "cuda" and not torch.cuda.is_available(), reason="this machine has no GPU"),
]
RECIPES: dict[str, rb.Recipe] = {
    "RateCoding": rb.RateCoding(timesteps=4),
    "FTBC": rb.FTBC(timesteps=3, batch_size=8, iterations=1),
    "SNNCalibration": rb.SNNCalibration(timesteps=4, pipeline="advanced"),
    "SNM": rb.SNM(timesteps=4),
    "Burst": rb.Burst(timesteps=4),
    "MultiThreshold": rb.MultiThreshold(timesteps=2),
    "Graded": rb.Graded(timesteps=2, magnitude=2),
    "AdaFire": rb.AdaFire(timesteps=4),
    "SRP": rb.SRP(timesteps=4),
    "TPP": rb.TPP(timesteps=4),
    "ParallelConversion": rb.ParallelConversion(timesteps=5),
    "DAParallel": rb.DAParallel(timesteps=4),
}
WHOLE = ("RateCoding", "FTBC", "SNM", "Graded", "ParallelConversion")


@pytest.fixture(autouse=True)
def exact_products() -> Any:
    """Without TF32, which has ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def converted(name: str, recipe: rb.Recipe) -> rb.SpikingNetwork:
    network = rb.convert(networks.build(name), recipe, calibration=grid_images(name), device=NAME)
    assert network.graph.device.type == network.ann.device.type == find_device(NAME).type
    return network


def on_cpu(network: rb.SpikingNetwork) -> rb.SpikingNetwork:
    return copy.deepcopy(network).to("cpu")


def near(found: Tensor, expected: Tensor) -> None:
    assert found.device.type == find_device(NAME).type
    assert float((found.cpu() - expected).norm() / expected.norm().clamp(min=1e-6)) < 1e-6


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["OptionAResNet", "VGG"])
def test_the_spikes_of_the_cpu(name: str, recipe: str) -> None:
    """In float64, after a calibration on the GPU: step by step, in closed form, and as a stream."""
    network = converted(name, RECIPES[recipe]).double()
    reference, images = on_cpu(network), grid_images(name).double()
    near(network(images), reference(images))
    if network.protocol is None:
        *_, (_, last) = network.stream(images)
        near(last, reference(images))


@pytest.mark.parametrize("recipe", WHOLE)
def test_whole_numbers_are_the_same_to_the_bit(recipe: str) -> None:
    network = converted("OptionAResNet", RECIPES[recipe])
    whole = rb.integers(network, calibration=grid_images("OptionAResNet"))
    assert whole.graph.device.type == find_device(NAME).type
    images = grid_images("OptionAResNet")
    assert torch.equal(whole(images).cpu(), on_cpu(whole)(images))
    spikes, logits = whole.record(images)
    expected, expected_logits = on_cpu(whole).record(images)
    assert torch.equal(logits, expected_logits)
    assert all(torch.equal(spikes[site], expected[site]) for site in spikes)


@pytest.mark.parametrize("name", networks.GRID)
def test_every_kind_of_network(name: str) -> None:
    network = converted(name, rb.RateCoding(timesteps=4)).double()
    near(network(grid_images(name).double()), on_cpu(network)(grid_images(name).double()))


def test_measures() -> None:
    network = converted("OptionAResNet", RECIPES["Graded"]).double()
    images = grid_images("OptionAResNet").double()
    data = images, torch.arange(len(images)) % networks.CLASSES
    for measure in (rb.evaluate, rb.energy, rb.diagnose, rb.measure.unevenness, rb.measure.early_exit):
        given: Any = data if measure in (rb.evaluate, rb.measure.early_exit) else images
        found, expected = (measure(one, given).to_json() for one in (network, on_cpu(network)))
        assert str(found)[:50] == str(expected)[:50]
        assert flat(found) == pytest.approx(flat(expected), rel=1e-6, abs=1e-9)


def flat(value: Any) -> list[float]:
    """All numbers of a document, in order."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in flat(one)]
    if isinstance(value, list | tuple):
        return [number for one in value for number in flat(one)]
    return [float(value)] if isinstance(value, int | float) else []


def test_saved_and_loaded(tmp_path: Path) -> None:
    network = converted("VGG", RECIPES["Graded"])
    rb.save(network, tmp_path / "net")
    again = rb.load(tmp_path / "net").to(find_device(NAME))
    images = grid_images("VGG")
    assert torch.equal(again(images), network(images))


def test_training(tmp_path: Path) -> None:
    images = grid_images("OptionAResNet")
    labels = torch.arange(len(images)) % networks.CLASSES
    training = rb.Training(epochs=2, learning_rate=0.01, batch_size=8)
    quantised = rb.quantise(networks.build("OptionAResNet"), rb.Pascal(levels=4), calibration=images, device=NAME)
    kind = find_device(NAME).type
    trained = rb.train(quantised, (images, labels), training, accelerator=kind, folder=tmp_path)
    again = rb.train(quantised, (images, labels), training, accelerator=kind, folder=tmp_path)
    assert [epoch.train_loss for epoch in trained.history] == [epoch.train_loss for epoch in again.history]
    spiking = converted("OptionAResNet", RECIPES["RateCoding"])
    rb.train(spiking, images, rb.Training(epochs=1, learning_rate=1e-4, batch_size=8), accelerator=kind)


def test_a_comparison() -> None:
    recipes = [rb.OPI(), rb.Graded(), rb.Pascal()]
    found = compared(recipes=recipes, timesteps=(2,), training=TRAINING, device=NAME)
    assert {cell.status for cell in found.cells} == {"done"}
    again = compared(recipes=recipes, timesteps=(2,), training=TRAINING, device=NAME)
    assert numbers(found.cells) == numbers(again.cells)
