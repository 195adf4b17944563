"""The potentials before firing; what every measurement of sites refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.core.errors import DataError, RecipeError
from rheobase.measure.plots import potential_plot
from tables import drawn


@pytest.mark.parametrize("name", ["MLP", "VGG"])
def test_those_at_the_threshold_are_those_that_fire(name: str, tmp_path: Path) -> None:
    snn, images = grid_snn(name), grid_images(name)
    site = snn.sites[1]
    fired = []
    snn.readouts(images, (4,), monitor=lambda s, train: fired.append(train.values) if s == site else None)
    spikes = torch.cat(fired, 1) > 0
    for step in (1, 3):
        found = rb.measure.potentials(snn, images, site.name, step)
        assert torch.equal(found.values >= 1, spikes[step - 1])
        counts, edges = found.histogram(bins=20)
        assert int(counts.sum()) == len(found.of())
        assert len(edges) == 21
    potential_plot(found, tmp_path / "potentials.png", channel=int(spikes[2].movedim(1, 0).flatten(1).sum(1).argmax()))
    assert drawn(tmp_path / "potentials.png")


def test_potentials_of_what_is_not_there(tmp_path: Path) -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    with pytest.raises(RecipeError, match="'nowhere' is not a site"):
        rb.measure.potentials(snn, images, "nowhere", 1)
    with pytest.raises(RecipeError, match="use a whole number from 1 to 4"):
        rb.measure.potentials(snn, images, snn.sites[0].name, 5)
    found = rb.measure.potentials(snn, images, snn.sites[0].name, 1)
    with pytest.raises(RecipeError, match="channel: is 1000"):
        found.of(channel=1000)
    silent = rb.measure.Potentials("x", 1, torch.full((2, 3), float("nan")))
    with pytest.raises(DataError, match="only silent channels"):
        potential_plot(silent, tmp_path / "x.png")


@pytest.mark.parametrize("measure", [rb.diagnose, rb.energy, rb.measure.unevenness, rb.measure.distribution])
def test_bad_input(measure: Callable[..., object]) -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    nan = torch.full_like(images, float("nan"))
    for given, message in ((images[:0], "images: is empty"), (torch.randn(2, 7), "converted for"), (nan, "NaN")):
        with pytest.raises(DataError, match=message):
            measure(snn, given)
    with pytest.raises(RecipeError, match="timesteps: is 0"):
        measure(snn, images, timesteps=0)
    if measure is not rb.energy:
        folded = rb.network.fold_thresholds(snn)
        with pytest.raises(RecipeError, match=r"site by site: thresholds are folded into the weights.*before folding"):
            measure(folded, images)
