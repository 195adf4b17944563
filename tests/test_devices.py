"""Devices by name, on machines with and without a GPU."""

from __future__ import annotations

import pytest
import torch

import rheobase as rb
from rheobase.core.devices import find_device
from rheobase.core.errors import RecipeError
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
