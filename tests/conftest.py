"""Shared by all tests."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import settings
from torch import nn

import networks
import rheobase as rb
from command_line import Run, runner
from rheobase.activations import ACTIVATIONS
from rheobase.graph import Graph, capture, fold_batch_norm
from rheobase.graph.operations import OPERATIONS
from rheobase.methods import METHODS
from rheobase.methods.activation_part import ACTIVATION_PARTS
from rheobase.methods.neuron_part import NEURON_PARTS
from rheobase.network.protocol import PROTOCOLS
from rheobase.neurons import NEURONS, fused
from rheobase.passes import PASSES, CalibrationData

settings.register_profile("project", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("project")
torch.set_num_threads(1)  # the test runner already uses both cores
fused.WARM_UP = math.inf  # compiling a rule takes longer than the test that happens to reach the limit of its process


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in the folder of a test file's data."""
    monkeypatch.chdir(home)
    return runner(capsys)


def pytest_itemcollected(item: pytest.Item) -> None:
    """What the whole suite leaves out is left out of the fast tier (``-m "not slow"``) too."""
    if any(item.get_closest_marker(name) for name in ("exhaustive", "simulators", "crosscheck")):
        item.add_marker("slow")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random weights whichever tests ran before on this worker."""
    torch.manual_seed(0)


@pytest.fixture
def own_parts() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    known: tuple[dict[str, Any], ...] = (
        PASSES,
        NEURON_PARTS,
        NEURONS,
        ACTIVATION_PARTS,
        ACTIVATIONS,
        PROTOCOLS,
        METHODS,
        OPERATIONS,
    )
    with ExitStack() as stack:
        for parts in known:
            stack.enter_context(mock.patch.dict(parts))
        yield


@cache
def grid_network(name: str) -> nn.Module:
    """A network of the grid; tests must not change it."""
    return networks.build(name)


@cache
def _trace(name: str) -> Any:
    return capture(grid_network(name), grid_images(name)[:4])


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace ``grid_network`` once for all methods: that takes most of a conversion. test_graph.py tests tracing."""

    def trace(model: nn.Module, example: torch.Tensor, **options: Any) -> Any:
        name = next((name for name in networks.GRID if grid_network(name) is model), None)
        return capture(model, example, **options) if name is None else copy.deepcopy(_trace(name))

    monkeypatch.setattr(importlib.import_module("rheobase.methods._convert"), "capture", trace)


@cache
def grid_graph(name: str) -> Graph:
    """The folded graph of a network of the grid."""
    return fold_batch_norm(capture(networks.build(name), grid_images(name)).graph)[0]


@cache
def grid_images(name: str, n: int = 20) -> torch.Tensor:
    """Seeded random inputs for a network of the grid."""
    return torch.randn(n, *networks.INPUT_SHAPES[name], generator=torch.Generator().manual_seed(7))


def spike_counts(snn: rb.SpikingNetwork, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Spikes of every neuron over all steps, and the logits."""
    found: dict[str, list[torch.Tensor]] = {}
    logits = snn.readouts(
        images,
        (snn.timesteps,),
        monitor=lambda site, signal: found.setdefault(site.name, []).append((signal.values != 0).sum(0)),
    )
    return {name: torch.cat(parts) for name, parts in found.items()}, logits[0]


@cache
def grid_snn(name: str, timesteps: int = 4) -> rb.SpikingNetwork:
    """A network of the grid, converted; tests must not change it."""
    recipe, max_pool = rb.RateCoding(timesteps=timesteps), "gate" if name == "MaxPoolVGG" else "refuse"
    return rb.convert(networks.build(name), recipe, calibration=grid_images(name), max_pool=max_pool)


def grid_data(name: str, held_out: bool = True) -> CalibrationData:
    """The images of a network of the grid as passes receive them, with or without held-out ones."""
    data = CalibrationData.pool(grid_images(name))
    return data if held_out else replace(data, held_out=data.held_out[:0])


class Stop:
    """A penalty of nothing, that ends a run at one step."""

    def __init__(self, left: int = -1) -> None:
        self.left = left

    def __call__(self, model: nn.Module) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return torch.zeros(())
