"""Memory that runs out: a piece is halved and tried again, with the same results; a single image is an error."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images, spike_counts
from rheobase.core.errors import ResourceError, RheobaseWarning
from rheobase.core.memory import in_pieces
from rheobase.graph import graph as graph_file
from rheobase.graph.interpreter import run
from rheobase.network import spiking_network
from rheobase.training import loop

Limit = Callable[[int, int], None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Make the interpreter run out of memory in the ``node``-th node for more than ``most`` images."""

    def set_limit(most: int, node: int) -> None:
        def limited(graph: object, plan: list, values: dict, *rest: object) -> None:
            images = len(next(iter(values.values())).mean())
            run(graph, plan[:node], values, *rest)
            if images > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            run(graph, plan[node:], values, *rest)

        for module in (graph_file, spiking_network):
            monkeypatch.setattr(module, "run", limited)

    return set_limit


@given(images=st.integers(1, 40), size=st.integers(1, 40), most=st.integers(1, 40), at=st.integers(0, 2))
def test_every_image_is_reported_once_for_each_site(images: int, size: int, most: int, at: int) -> None:
    """For any size, limit, and site after which memory runs out."""
    x = torch.arange(images)
    seen: list[list[int]] = [[], []]

    def compute(net: object, piece: Tensor, report: Callable | None) -> Tensor:
        assert report is not None
        for site in (0, 1):
            if len(piece) > most and at == site:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            report(site, piece)
        if len(piece) > most:
            raise MemoryError
        return piece * 2

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        found = in_pieces(compute, nn.Identity(), x, size, lambda site, piece: seen[site].extend(piece.tolist()))
    assert found.tolist() == [2 * i for i in range(images)]
    assert [sorted(one) for one in seen] == [list(range(images))] * 2
    assert bool(raised) == (min(size, images) > most)


@pytest.mark.parametrize("recipe", [rb.RateCoding(timesteps=4), rb.ParallelConversion(timesteps=4)])
@pytest.mark.parametrize("node", [0, 3])
def test_the_same_results(limit: Limit, recipe: rb.Recipe, node: int) -> None:
    """Logits, spikes, evaluation and energy of a network, simulated and in closed form, are those without a limit."""
    images = grid_images("OptionAResNet")
    data = images, torch.arange(len(images)) % networks.CLASSES
    snn = rb.convert(networks.build("OptionAResNet"), recipe, calibration=images)

    def results() -> list[object]:
        return [rb.evaluate(snn, data).to_json(), rb.energy(snn, images).to_json()]

    expected, (spikes, logits) = results(), spike_counts(snn, images)
    limit(3, node)
    with pytest.warns(RheobaseWarning, match=r"cpu: out of memory for \d+ images at once; going on with \d+"):
        found, (spikes_again, logits_again) = results(), spike_counts(snn, images)
    assert found == expected
    assert torch.equal(logits, logits_again)
    assert all(torch.equal(spikes[site].sum(0), spikes_again[site].sum(0)) for site in spikes)


def test_a_calibration_in_pieces(limit: Limit) -> None:
    images = grid_images("VGG")
    expected = rb.convert(networks.build("VGG"), rb.OPI(timesteps=4), calibration=images)
    limit(5, 2)
    with pytest.warns(RheobaseWarning, match="out of memory"):
        found = rb.convert(networks.build("VGG"), rb.OPI(timesteps=4), calibration=images)
    for one, other in zip(found.neurons.buffers(), expected.neurons.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_single_image(limit: Limit) -> None:
    images = grid_images("VGG")
    snn = rb.convert(networks.build("VGG"), rb.RateCoding(timesteps=2), calibration=images)
    limit(0, 1)
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ResourceError, match=r"cpu: runs out of memory for a single image. Remedy: use fewer time-steps"),
    ):
        snn(images)


def test_another_error_is_not_repeated() -> None:
    def fail(net: object, piece: Tensor, report: object) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        in_pieces(fail, nn.Identity(), torch.zeros(4), 4)


def test_training(monkeypatch: pytest.MonkeyPatch) -> None:
    images = grid_images("VGG")
    network = rb.quantise(networks.build("VGG"), rb.Pascal(levels=4), calibration=images)

    def step(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loop._Run, "_step", step)
    labels = torch.arange(len(images)) % networks.CLASSES
    said = r"training on cpu: runs out of memory for a batch of 8 images. Remedy: use a smaller Training\(batch_size"
    with pytest.raises(ResourceError, match=said):
        rb.train(network, (images, labels), rb.Training(epochs=1, learning_rate=0.01, batch_size=8))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_the_operating_system_refuses_memory() -> None:
    """A network with 4 MiB for each image at every layer, in a process that may have 128 MiB more than it has."""
    code = """
import resource, warnings, torch, rheobase as rb
from torch import nn
torch.set_num_threads(1)
first, last = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1)
net = nn.Sequential(first, nn.ReLU(), last, nn.AvgPool2d(128), nn.Flatten())
images = torch.rand(32, 1, 128, 128)
snn = rb.convert(net, rb.ParallelConversion(timesteps=4), calibration=images[:4])
expected = torch.cat([snn(part) for part in images.split(4)])
has = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + 2**27,) * 2)
with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    found = snn(images)
assert any("out of memory" in str(one.message) for one in raised), raised
assert torch.allclose(found, expected, atol=1e-6)
print("done", [str(one.message) for one in raised])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "done" in done.stdout, done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_kept() -> None:
    """Forty tensors of 64 MiB, one after the other: new pages for each, or for the first ones."""
    code = """
import resource, sys, torch
from rheobase.core.freed_memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(2**24)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() // 2**26)
"""

    def new(mode: str) -> int:
        """Number of tensors for which there were new pages."""
        done = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert new("keep") < 20 < new("give back")
