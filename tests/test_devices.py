"""Devices by name, on machines with and without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import networks
import rheobase as rb
from command_line import assert_refused, runner
from conftest import grid_images
from rheobase.core.devices import find_device, spread
from rheobase.core.errors import CalibrationError, RecipeError, RheobaseWarning
from rheobase.data import CalibrationData
from test_compare import compared, part, traced

HAS_CUDA = torch.cuda.is_available()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "device: is 'gpu'.*use cpu"),
        ("", "device: is ''"),
        (3.5, "device: is 3.5"),
        ("xla", "device: is xla, which this machine does not have"),
        ("meta", "device: is meta, which this machine does not have"),
        ("cpu:7", "device: is cpu:7, which this machine does not have"),
        pytest.param("cuda", "built without CUDA|sees no GPU", marks=pytest.mark.skipif(HAS_CUDA, reason="has a GPU")),
    ],
)
def test_no_such_device(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find_device(name)
    with pytest.raises(RecipeError, match=said):
        rb.convert(traced(), rb.OPI(), calibration=part("train"), device=name)
    with pytest.raises(RecipeError, match=said):
        compared(device=name)


def test_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu:0") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(RecipeError, match="is cuda:2, but this machine has 2 of them"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == find_device("mps") == torch.device("mps")


def test_a_network_is_not_moved_itself() -> None:
    """A conversion for another device copies; here to a device without values, which refuses to compute."""
    graph = traced()
    assert all(tensor.is_meta for tensor in graph.on(torch.device("meta")).tensors.values())
    assert not any(tensor.is_meta for tensor in graph.tensors.values())


def test_the_cpu_by_name_changes_nothing() -> None:
    images = part("test")[0]
    plain, named = (rb.convert(traced(), rb.OPI(), calibration=part("train"), **how) for how in ({}, {"device": "cpu"}))
    assert torch.equal(plain(images), named(images))
    assert compared(device="cpu", timesteps=(1,)).cells[0].test == compared(timesteps=(1,)).cells[0].test


SPREAD: dict[str, rb.Recipe] = {
    "RateCoding": rb.RateCoding(timesteps=4),
    "FTBC": rb.FTBC(timesteps=3, batch_size=8, iterations=1),
    "Graded": rb.Graded(timesteps=2, magnitude=2),
    "AdaFire": rb.AdaFire(timesteps=3),
    "TPP": rb.TPP(timesteps=3),
    "ParallelConversion": rb.ParallelConversion(timesteps=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SPREAD)
@pytest.mark.parametrize("name", ["OptionAResNet", "VGG"])
def test_two_devices_give_the_results_of_one(name: str, recipe: str) -> None:
    """Conversion, evaluation, energy and whole numbers; the CPU twice, with a copy of the network each."""
    images = grid_images(name)
    data = images, torch.arange(len(images)) % networks.CLASSES

    def results() -> tuple[list[object], rb.SpikingNetwork]:
        snn = rb.convert(networks.build(name), SPREAD[recipe], calibration=images)
        snn.memory_budget = 2**20  # several pieces
        return [rb.evaluate(snn, data).to_json(), rb.energy(snn, images).to_json()], snn

    expected, alone = results()
    with rb.spread_over("cpu", "cpu"):
        found, together = results()
    assert found == expected
    for one, other in zip(alone.state_dict().values(), together.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_whole_numbers_on_two_devices() -> None:
    images = grid_images("OptionAResNet")
    snn = rb.convert(networks.build("OptionAResNet"), rb.ParallelConversion(timesteps=4), calibration=images)
    whole = rb.integers(snn, calibration=images)
    with rb.spread_over("cpu", "cpu", "cpu"):
        together = whole(images)
    assert torch.equal(together, whole(images))


def test_memory_that_runs_out_on_one_of_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    images = grid_images("VGG")
    snn = rb.convert(networks.build("VGG"), rb.RateCoding(timesteps=2), calibration=images)
    expected, simulate = rb.evaluate(snn, images), rb.SpikingNetwork._simulate

    def limited(self: rb.SpikingNetwork, piece: torch.Tensor, *rest: Any) -> torch.Tensor:
        found = simulate(self, piece, *rest)
        if len(piece) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    monkeypatch.setattr(rb.SpikingNetwork, "_simulate", limited)
    with rb.spread_over("cpu", "cpu"), pytest.warns(RheobaseWarning, match="out of memory"):
        assert rb.evaluate(snn, images) == expected


def test_an_error_in_a_thread_is_that_of_the_call() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    torch.nn.init.constant_(net[0].weight, 1e10)
    snn = rb.convert(net, rb.OPI(timesteps=2), calibration=torch.rand(8, 4))
    with rb.spread_over("cpu", "cpu"), pytest.raises(CalibrationError, match="receives NaN"):
        rb.passes.Thresholds().apply(snn, CalibrationData.pool(torch.full((8, 4), 1e30)))
    with pytest.raises(RecipeError, match="device: is 'gpu'"), rb.spread_over("cpu", "gpu"):
        pass


def test_what_several_devices_cannot_share() -> None:
    with pytest.raises(RecipeError, match="devices: are 1, so that there is nothing to share"), rb.spread_over("cpu"):
        pass
    data = part("train"), part("test")
    with rb.spread_over("cpu", "cpu"), pytest.raises(RecipeError, match=r"workers: are other processes"):
        rb.compare(traced(), [rb.OPI()], *data, (2,), workers=2)


def test_several_devices_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rb.save(rb.convert(traced(), rb.RateCoding(timesteps=2), calibration=part("train")), tmp_path / "net")
    command = ["evaluate", tmp_path / "net", "--data", "rheobase.zoo.digits:digits_test", "--json"]
    run = runner(capsys)
    assert_refused(run(*command, "--device", "cpu,gpu"), "device: is 'gpu'")
    assert run(*command, "--device", "cpu,cpu").document == run(*command).document
    assert spread() == ()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["RateCoding", "FTBC", "Graded", "ParallelConversion"])
def test_potentials_are_not_in_mixed_precision(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted operations run in bfloat16; neurons, simulated or in closed form, receive float32."""
    images = grid_images("VGG")
    snn = rb.convert(networks.build("VGG"), SPREAD[recipe], calibration=images)
    seen: set[torch.dtype] = set()
    kind = type(snn.neurons[0])
    for method in ("run", "rate"):
        if hasattr(kind, method):
            original = getattr(kind, method)

            def recorded(self: Any, current: torch.Tensor, *rest: Any, original: Any = original, **more: Any) -> Any:
                seen.add(current.dtype)
                return original(self, current, *rest, **more)

            monkeypatch.setattr(kind, method, recorded)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, (*_, (_, streamed)) = snn(images), snn.stream(images)
    assert seen == {torch.float32}
    near = float((mixed.float() - snn(images)).norm() / snn(images).norm())
    assert 0 < near < 0.1
    if snn.streams:
        torch.testing.assert_close(streamed, mixed)
