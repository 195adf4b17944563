"""The stability view and the potentials before firing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import networks
import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.core.errors import DataError, RecipeError, StoreError
from rheobase.measure._stability import Point
from rheobase.measure.plots import potential_plot, stability_plot


def drawn(path: Path) -> bool:
    with Image.open(path) as image:
        return image.width > 400 and len(image.convert("L").getcolors(256) or []) > 10


@pytest.mark.slow
def test_stability_has_every_iteration_of_every_curve(tmp_path: Path) -> None:
    images, labels = grid_images("MLP"), torch.arange(20) % 10
    recipe = rb.FTBC(batch_size=8)
    result = rb.measure.stability(
        networks.build("MLP"), (images, labels), timesteps=(2, 4), iterations=5, recipe=recipe
    )
    assert result.images == 4
    assert set(result.curves) == {2, 4}
    for curve in result.curves.values():
        assert [point.iteration for point in curve] == [0, 1, 2, 3, 4, 5]
    snn = rb.convert(networks.build("MLP"), rb.RateCoding(timesteps=4), calibration=images)
    assert result.curves[4][0].logit_error == pytest.approx(
        rb.passes.held_out.logit_error(snn, rb.passes.CalibrationData.pool(images).held_out)
    )
    stability_plot(result, tmp_path / "stability.png")
    assert drawn(tmp_path / "stability.png")


def test_stability_of_what_does_not_iterate() -> None:
    with pytest.raises(RecipeError, match="no TemporalBias"):
        rb.measure.stability(networks.build("MLP"), grid_images("MLP"), recipe=rb.OPI())
    with pytest.raises(RecipeError, match="recipe: is a str"):
        rb.measure.stability(networks.build("MLP"), grid_images("MLP"), recipe="FTBC")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"x\.foo: cannot be written"):
        stability_plot(rb.measure.Stability({4: (Point(0, None, 0.5, 0.1),)}, 4), "x.foo")
    with pytest.raises(RecipeError, match="timesteps: is empty"):
        rb.measure.stability(networks.build("MLP"), grid_images("MLP"), timesteps=())


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
