"""Evaluation and recipes."""

from __future__ import annotations

import json

import pytest
import torch

import networks
import rheobase as rb
from conftest import grid_images, grid_network, grid_snn
from rheobase.core.errors import DataError, RecipeError
from rheobase.data.batches import Digest
from rheobase.measure._evaluate import default_timesteps
from rheobase.methods import METHODS, Recipe
from tables import unpadded


def labels_for(name: str) -> torch.Tensor:
    return torch.arange(len(grid_images(name))) % 3


@pytest.mark.slow
def test_numbers_against_their_definitions() -> None:
    snn, images, labels = grid_snn("OptionAResNet"), grid_images("OptionAResNet"), labels_for("OptionAResNet")
    result = rb.evaluate(snn, (images, labels), timesteps=(4, 1))
    assert [row.timesteps for row in result.rows] == [1, 4]
    with torch.no_grad():
        ann = snn.ann(images)
    assert result.ann_accuracy == pytest.approx(float((ann.argmax(1) == labels).float().mean()))
    for row in result.rows:
        logits = snn(images, timesteps=row.timesteps)
        assert row.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
        assert row.agreement == pytest.approx(float((logits.argmax(1) == ann.argmax(1)).float().mean()))
        assert row.logit_error == pytest.approx(float(((logits - ann).norm(dim=1) / ann.norm(dim=1)).mean()), rel=1e-5)
        spikes: list[int] = []
        snn.readouts(images, (row.timesteps,), monitor=lambda s, t, n=spikes: n.append(int((t.values != 0).sum())))
        neurons = sum(site.neurons for site in snn.sites)
        assert row.spike_rate == pytest.approx(sum(spikes) / (len(images) * neurons * row.timesteps))


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_results_do_not_depend_on_the_batch_size(batch: int) -> None:
    snn, images, labels = grid_snn("MobileNetV2"), grid_images("MobileNetV2"), labels_for("MobileNetV2")
    whole = rb.evaluate(snn, (images, labels)).to_json()
    loader = list(zip(images.split(batch), labels.split(batch), strict=True))
    parts = rb.evaluate(snn, loader).to_json()
    for row, other in zip(whole.pop("rows"), parts.pop("rows"), strict=True):
        assert row.pop("scores") == other.pop("scores")
        assert row == pytest.approx(other, rel=1e-12)
    assert whole == parts


@pytest.mark.slow
def test_without_labels_there_is_no_accuracy() -> None:
    result = rb.evaluate(grid_snn("MLP"), grid_images("MLP"))
    assert result.ann_accuracy is None
    assert all(row.accuracy is None and row.agreement >= 0 for row in result.rows)
    assert "| ANN | - |" in unpadded(result.to_markdown())


@pytest.mark.slow
def test_an_output_that_is_a_map() -> None:
    snn, images = grid_snn("UNet"), grid_images("UNet")
    result = rb.evaluate(snn, images, timesteps=(4,))
    with torch.no_grad():
        same = (snn(images).argmax(1) == snn.ann(images).argmax(1)).float().mean()
    assert result.rows[0].agreement == pytest.approx(float(same))


def test_the_result_is_json() -> None:
    result = rb.evaluate(grid_snn("MLP"), (grid_images("MLP"), labels_for("MLP")))
    assert json.loads(json.dumps(result.to_json()))["versions"]["torch"] == torch.__version__


def test_digest_ignores_batches_but_not_values() -> None:
    x = torch.randn(6, 3)
    one, many, other = Digest(), Digest(), Digest()
    one.update(images=x)
    for part in x.split(2):
        many.update(images=part)
    other.update(images=x + 1)
    assert one.hexdigest() == many.hexdigest() != other.hexdigest()


def test_default_timesteps() -> None:
    assert default_timesteps(1) == (1,)
    assert default_timesteps(6) == (1, 2, 4, 6)
    assert default_timesteps(32) == (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (torch.full((20,), 99), r"label of image 0 of the test data: is 99, but the network has \d+ classes"),
        (torch.full((20,), -1), "is -1"),
        (torch.zeros(20), "one whole number"),
        (torch.zeros(20, 2, dtype=torch.int64), "one whole number"),
        (torch.zeros(19, dtype=torch.int64), "20 images but 19 labels"),
    ],
)
def test_labels_that_do_not_fit(labels: torch.Tensor, word: str) -> None:
    with pytest.raises(DataError, match=word):
        rb.evaluate(grid_snn("MLP"), (grid_images("MLP"), labels))


@pytest.mark.parametrize("option", [{"max_pool": "avg"}, {"num_calibration_images": 0}])
def test_options_without_a_meaning(option: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(option))):
        rb.convert(networks.build("MLP"), rb.RateCoding(), calibration=grid_images("MLP"), **option)  # type: ignore[arg-type]


def test_no_timesteps_at_all() -> None:
    with pytest.raises(RecipeError, match="timesteps: is empty"):
        rb.evaluate(grid_snn("MLP"), grid_images("MLP"), timesteps=())
    for function in (rb.evaluate, rb.SpikingNetwork.readouts):
        with pytest.raises(RecipeError, match="timesteps: is 4"):
            function(grid_snn("MLP"), grid_images("MLP"), 4)  # type: ignore[operator]


def test_an_empty_loader() -> None:
    with pytest.raises(DataError, match="test data: is empty"):
        rb.evaluate(grid_snn("MLP"), [])


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_recipes_round_trip_through_yaml_and_are_values() -> None:
    recipe = rb.RateCoding(timesteps=8, threshold="percentile", percentile=99.0, granularity="layer")
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert hash(again) == hash(recipe)
    short = Recipe.from_yaml(
        "method: RateCoding\ntimesteps: 8\nthreshold: percentile\npercentile: 99\ngranularity: layer"
    )
    assert short == recipe
    with pytest.raises(RecipeError, match=r"timesteps: is read-only"):
        recipe.timesteps = 4  # type: ignore[misc]


def test_a_recipe_from_yaml_converts_alike() -> None:
    recipe = rb.RateCoding(timesteps=3)
    images = grid_images("MLP")
    a, b = (
        rb.convert(networks.build("MLP"), r, calibration=images) for r in (recipe, Recipe.from_yaml(recipe.to_yaml()))
    )
    assert torch.equal(a(images), b(images))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: rb.RateCoding(timesteps=0), "timesteps"),
        (lambda: rb.RateCoding(timesteps=-2), "timesteps"),
        (lambda: rb.RateCoding(timesteps=2.5), "timesteps"),
        (lambda: rb.RateCoding(timestep=8), "unknown field 'timestep'"),
        (lambda: rb.RateCoding(threshold="median"), "threshold"),
        (lambda: rb.RateCoding(initial_potential=1.5), "initial_potential"),
        (lambda: rb.RateCoding(percentile=0.0), "percentile"),
        (lambda: rb.Recipe(name="x", timesteps=4, calibration=(), colour="red"), "unknown field 'colour'"),
        (lambda: Recipe.from_yaml("method: RateCodin"), "'RateCodin' is unknown"),
        (lambda: Recipe.from_yaml("- 1"), "not a mapping"),
        (lambda: Recipe.from_yaml("1: 2"), "not a mapping"),
        (lambda: Recipe.from_yaml("{"), "not YAML"),
        (lambda: Recipe.load("/nowhere.yaml"), "cannot be read"),
    ],
)
def test_impossible_recipes_name_the_field(make, word: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecipeError, match=word):
        make()


def test_a_thing_that_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match="is a str"):
        rb.convert(networks.build("MLP"), "RateCoding", calibration=grid_images("MLP"))  # type: ignore[arg-type]


VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    # those that need a quantised network have a grid of their own, in test_exact
    **{method: (method, {}) for method in METHODS if METHODS[method]().activation is None},
    "FTBC": ("FTBC", {"batch_size": 8, "iterations": 2}),
    "DAParallel": ("DAParallel", {"batch_size": 8}),
    "RMP": ("RMP", {"threshold": "mse", "granularity": "channel"}),  # its maxima need more than four steps
    "Graded": ("Graded", {"magnitude": 2}),
    "SNNCalibration advanced": ("SNNCalibration", {"pipeline": "advanced"}),
    "SNNCalibration weights": ("SNNCalibration", {"pipeline": "advanced", "weights": True, "weight_iterations": 2}),
}


@pytest.mark.slow
@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", networks.GRID)
def test_every_method_on_every_network(variant: str, name: str) -> None:
    """The grid: each combination converts, runs, and records what it did and what it cost."""
    images = grid_images(name)
    method, options = VARIANTS[variant]
    snn = rb.convert(grid_network(name), METHODS[method](timesteps=4, **options), calibration=images)
    assert bool(torch.isfinite(snn(images)).all())
    for record in snn.provenance.passes:
        assert len(record["error_after"]) == len(snn.sites)
        undone = any("original network kept" in note or "no biases: T = 4" in note for note in record["notes"])
        assert bool(record["changed"]) != undone
        if record["pass"]["kind"] in ("thresholds", "shift_current"):
            assert set(record["changed"]) == {site.name for site in snn.sites}
    assert snn.provenance.passes[-1]["error_after"][0] < 0.2
