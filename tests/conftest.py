"""Shared by all tests."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import settings

import networks
import rheobase as rb
from rheobase.graph import Graph, capture, fold_batch_norm

settings.register_profile("project", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("project")
torch.set_num_threads(1)  # the test runner already uses both cores


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random weights whichever tests ran before on this worker."""
    torch.manual_seed(0)


@cache
def grid_graph(name: str) -> Graph:
    """The folded graph of a network of the grid."""
    return fold_batch_norm(capture(networks.build(name), grid_images(name)).graph)[0]


@cache
def grid_images(name: str, n: int = 20) -> torch.Tensor:
    """Seeded random inputs for a network of the grid."""
    return torch.randn(n, *networks.INPUT_SHAPES[name], generator=torch.Generator().manual_seed(7))


@cache
def grid_snn(name: str, timesteps: int = 4) -> rb.SpikingNetwork:
    """A network of the grid, converted; tests must not change it."""
    recipe = rb.RateCoding(timesteps=timesteps)
    return rb.convert(networks.build(name), recipe, calibration=grid_images(name))
