"""Images on another scale than the calibration images are noticed, with both ranges."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rheobase as rb
from rheobase.core.errors import RheobaseWarning
from rheobase.data.value_range import ValueRange

IMAGES = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture(scope="module")
def snn() -> rb.SpikingNetwork:
    return rb.convert(net(), rb.RateCoding(timesteps=2), calibration=IMAGES)


MEASURES: dict[str, Callable[[rb.SpikingNetwork, torch.Tensor], Any]] = {
    "evaluate": lambda snn, images: rb.evaluate(snn, (images, LABELS)),
    "energy": rb.energy,
    "diagnose": rb.diagnose,
    "distribution": rb.measure.distribution,
    "unevenness": rb.measure.unevenness,
    "potentials": lambda snn, images: rb.measure.potentials(snn, images, snn.sites[0].name, step=1),
    "compare": lambda snn, images: rb.compare(net(), [rb.OPI(), rb.RateCoding()], IMAGES, images + 1e-3, (1, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("measure", MEASURES)
def test_every_measurement_warns_once_of_another_scale(snn: rb.SpikingNetwork, measure: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RheobaseWarning)
        MEASURES[measure](snn, 255 * IMAGES)
    (message,) = (str(one.message) for one in caught if issubclass(one.category, RheobaseWarning))
    low, high = 255 * IMAGES.min(), 255 * IMAGES.max() + (1e-3 if measure == "compare" else 0)
    assert f"{high:.4g} (deviation" in message
    assert low < high
    assert f"calibration images, {IMAGES.min():.4g} to {IMAGES.max():.4g} (deviation" in message
    assert "Remedy: scale and normalise both" in message
    MEASURES[measure](snn, IMAGES)  # warnings are errors in these tests


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [lambda x: 255 * x, lambda x: (x - 0.5) / 0.09, lambda x: x / 255])
def test_which_scales_are_told_apart(snn: rb.SpikingNetwork, normalise: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.warns(RheobaseWarning, match="on another scale"):
        rb.evaluate(snn, normalise(IMAGES))
    other = rb.convert(net(), rb.RateCoding(timesteps=2), calibration=normalise(IMAGES))
    rb.evaluate(other, normalise(IMAGES[:5]))
    with pytest.warns(RheobaseWarning, match="on another scale"):
        rb.evaluate(other, IMAGES)


@pytest.mark.parametrize("images", [IMAGES[:1], 0.5 * IMAGES, 1 - IMAGES, torch.zeros(2, 1, 6, 6), IMAGES.sqrt()])
def test_other_images_of_the_same_scale_are_no_warning(snn: rb.SpikingNetwork, images: torch.Tensor) -> None:
    rb.evaluate(snn, images)


def test_it_is_stored_with_the_network(snn: rb.SpikingNetwork, tmp_path: Path) -> None:
    loaded = rb.load(rb.save(snn, tmp_path / "snn"))
    assert loaded.provenance.calibration["values"] == snn.provenance.calibration["values"]
    with pytest.warns(RheobaseWarning, match="on another scale"):
        rb.diagnose(loaded, 255 * IMAGES)
    bare = rb.convert(net(), rb.methods.Recipe(name="bare", timesteps=2), example=IMAGES[:2])
    rb.evaluate(bare, 255 * IMAGES)  # nothing to compare with


@given(
    st.lists(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=9), min_size=1, max_size=5),
)
def test_batches_do_not_matter(parts: list[list[float]]) -> None:
    values = ValueRange()
    for part in parts:
        values.add(torch.tensor(part))
    whole = torch.tensor([value for part in parts for value in part]).double()
    expected = [whole.min(), whole.max(), whole.mean(), whole.std(correction=0)]
    # a deviation far below the mean is lost in float32
    torch.testing.assert_close([*values.to_dict().values()], [float(one) for one in expected], atol=0.05, rtol=1e-4)
