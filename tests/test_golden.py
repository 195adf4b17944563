"""Golden vectors: written, read without Rheobase, checked, and damaged."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rheobase as rb
from rheobase.core.errors import DataError, RecipeError, StoreError

RECIPES = {
    "IF": rb.RateCoding(timesteps=4),
    "signed": rb.Graded(timesteps=3, magnitude=2, iterations=0),
    "large": rb.MultiThreshold(timesteps=2, magnitude=256),
    "waiting": rb.ParallelConversion(timesteps=5),
}


@cache
def images() -> Tensor:
    return torch.rand(40, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@cache
def converted(name: str = "IF") -> rb.SpikingNetwork:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4)
    ).requires_grad_(False)
    return rb.convert(net, RECIPES[name], calibration=images())


@cache
def whole(name: str = "IF", **options: Any) -> rb.network.IntegerNetwork:
    return rb.integers(converted(name), calibration=images(), **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return rb.exchange.write_golden_vectors(whole(), images()[:6], tmp_path / "golden.safetensors")


@pytest.mark.parametrize("name", RECIPES)
def test_readable_without_rheobase(name: str, tmp_path: Path) -> None:
    network = whole(name)
    path = rb.exchange.write_golden_vectors(network, images()[:6], tmp_path / "golden.safetensors")
    with safetensors.safe_open(path, "np") as file:
        document = json.loads(file.metadata()["rheobase"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    seen: dict[str, list[Tensor]] = {}
    network.execution = "steps"
    logits = network.readouts(
        images()[:6],
        (network.timesteps,),
        monitor=lambda site, signal: seen.setdefault(site.name, []).append(signal.values.clone()),
    )[0]
    network.execution = "auto"
    assert document["timesteps"] == network.timesteps
    assert [site["name"] for site in document["sites"]] == [site.name for site in network.sites]
    for site in document["sites"]:
        array = arrays[site["tensor"]]
        assert array.dtype == (np.int16 if name == "large" else np.int8)
        assert list(array.shape) == [network.timesteps, 6, *site["shape"]]
        assert set(np.unique(array)) <= set(site["alphabet"])
        assert np.array_equal(array, torch.cat(seen[site["name"]], 1).numpy())
    assert np.array_equal(arrays["pixels"], network.pixels(images()[:6]).numpy())
    unit = document["units"]["logit"] / document["timesteps"]
    assert np.array_equal((arrays["logits"] * unit).astype(np.float32), logits.numpy())
    assert {"seed", "versions", "calibration"} <= document["provenance"].keys()


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_itself_passes(name: str, tmp_path: Path) -> None:
    """Also from the pixels of the file, and as arrays."""
    path = rb.exchange.write_golden_vectors(whole(name), images()[:6], tmp_path / "golden.safetensors")
    golden = rb.exchange.read_golden_vectors(path)
    assert golden.units == whole(name).units
    spikes, logits = whole(name).record(golden.images)
    golden.check(spikes, logits)
    golden.check({site: train.numpy() for site, train in spikes.items()}, logits.numpy())
    golden.check({golden.document["sites"][-1]["name"]: spikes[golden.document["sites"][-1]["name"]].double()})


def test_logits_beyond_float32(tmp_path: Path) -> None:
    """A network in float64: its sums do not fit into the logits' float32, but into the file."""
    wide = whole(target=rb.network.generic(weights=16, state=32))
    assert wide.graph.dtype == torch.float64
    spikes, logits = wide.record(images())
    layer = next(node for node in reversed(wide.graph.nodes) if node.operation == "linear")
    weight, bias = (wide.graph.tensor(layer.parameters[name]).long() for name in ("weight", "bias"))
    counts = spikes[wide.sites[-1].name].long().sum(0)
    assert torch.equal(logits, counts @ weight.T + wide.timesteps * bias)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_first_difference_is_named(file: Path, data: st.DataObject) -> None:
    golden = rb.exchange.read_golden_vectors(file)
    spikes = {site: train.clone() for site, train in golden.spikes.items()}
    changed = data.draw(
        st.lists(st.tuples(st.integers(0, len(spikes) - 1), st.integers(0, 10**6)), min_size=1, max_size=4, unique=True)
    )
    changed = sorted({(site, i % list(spikes.values())[site].numel()) for site, i in changed})
    for site, i in changed:
        list(spikes.values())[site].view(-1)[i] += 1
    first, place = changed[0]
    name = list(spikes)[first]
    step, image, *neuron = (int(i) for i in np.unravel_index(place, golden.spikes[name].shape))
    with pytest.raises(DataError) as caught:
        golden.check(dict(reversed(spikes.items())))
    found, expected = int(spikes[name].view(-1)[place]), int(golden.spikes[name].view(-1)[place])
    assert caught.value.where == f"spikes of {name}"
    assert f"is {found} at step {step}, image {image}, neuron {neuron}, and {expected} in the file" in str(caught.value)
    assert f"{sum(site == first for site, _ in changed)} of {golden.spikes[name].numel()} values" in str(caught.value)


def test_bad_spikes(file: Path) -> None:
    golden = rb.exchange.read_golden_vectors(file)
    site, train = next(iter(golden.spikes.items()))
    logits = golden.logits.clone()
    logits[2, 1] += 7
    for spikes, total, words in (
        ({"relu": train}, None, "spikes: has the site 'relu'"),
        ({}, None, "spikes: is empty"),
        ({site: train[:, :3]}, None, r"has shape \[4, 3, 3, 4, 4\], the file \[4, 6, 3, 4, 4\]"),
        ({site: "none"}, None, "is a str, not a tensor"),
        ({site: None}, None, "is a NoneType, not a tensor"),
        ({site: train + 0.5}, None, "is 0.5 at step 0, image 0"),
        ({}, logits, "logits: is .* at image 2, output "),
    ):
        with pytest.raises(DataError, match=words) as caught:
            golden.check(spikes, total)
        assert caught.value.remedy


def test_bad_networks_images_and_paths(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not on whole numbers"):
        rb.exchange.write_golden_vectors(converted(), images(), tmp_path / "new")
    with pytest.raises(DataError, match=r"images: have shape \[2, 5, 5\], the network was converted for \[2, 6, 6\]"):
        rb.exchange.write_golden_vectors(whole(), torch.rand(2, 2, 5, 5), tmp_path / "new")
    with pytest.raises(DataError, match="images: are none"):
        rb.exchange.write_golden_vectors(whole(), images()[:0], tmp_path / "new")
    with pytest.raises(StoreError, match="already exists"):
        rb.exchange.write_golden_vectors(whole(), images(), file)
    with pytest.raises(StoreError, match="pass a path"):
        rb.exchange.write_golden_vectors(whole(), images(), 5)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["golden.safetensors"]
    rb.exchange.write_golden_vectors(whole(), images()[:1], file, overwrite=True)
    assert len(rb.exchange.read_golden_vectors(file).pixels) == 1


def test_bad_files(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for damaged in (b"", b"not a safetensors file", content[:100], content[: len(content) // 2], content[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match="is truncated, damaged or not a safetensors file"):
            rb.exchange.read_golden_vectors(file)
    rb.save(whole(), tmp_path / "whole")
    for path, words in (
        (tmp_path / "missing", "is not a file"),
        (tmp_path, "is not a file"),
        (tmp_path / "whole" / "tensors.safetensors", "holds no golden vectors"),
    ):
        with pytest.raises(StoreError, match=words):
            rb.exchange.read_golden_vectors(path)
    file.write_bytes(content.replace(b'\\"version\\": 1', b'\\"version\\": 9'))
    with pytest.raises(StoreError, match="newer rheobase"):
        rb.exchange.read_golden_vectors(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_noticed(file: Path, data: st.DataObject) -> None:
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = file.with_name("flipped")
    path.write_bytes(content)
    with pytest.raises(StoreError):
        rb.exchange.read_golden_vectors(path)
