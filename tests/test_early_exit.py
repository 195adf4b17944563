"""Early exit by confidence against a plain loop over images and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.core.errors import DataError, RecipeError
from rheobase.measure import early_exit

CONFIDENCES = (0.2, 0.25, 0.3, 0.5, 1.0)


def converted(recipe: rb.Recipe | None = None) -> rb.SpikingNetwork:
    return rb.convert(networks.build("MLP"), recipe or rb.RateCoding(timesteps=5), calibration=grid_images("MLP"))


def by_hand(
    snn: rb.SpikingNetwork, images: Tensor, labels: Tensor, confidence: float | None
) -> tuple[list[int], float]:
    """The step at which each image stops, and the accuracy."""
    steps, right = [], 0
    for image, label in zip(images, labels, strict=True):
        for t, logits in snn.stream(image[None]):
            probabilities = logits[0].double().softmax(0)
            if float(probabilities.max()) >= (confidence or 2) or t == snn.timesteps:
                steps.append(t)
                right += int(probabilities.argmax() == label)
                break
    return steps, right / len(images)


def test_against_a_loop() -> None:
    snn, images = converted(), grid_images("MLP")
    labels = snn.ann(images).argmax(1).roll(1)
    found = early_exit(snn, [(images[:5], labels[:5]), (images[5:], labels[5:])], confidences=CONFIDENCES)
    assert [row.confidence for row in found.rows] == [*CONFIDENCES, None]
    for row in found.rows:
        steps, accuracy = by_hand(snn, images, labels, row.confidence)
        assert row.mean_timesteps == pytest.approx(sum(steps) / len(steps))
        assert row.stopped == tuple(steps.count(t) for t in range(1, 6))
        assert row.accuracy == pytest.approx(accuracy)
    assert len({row.mean_timesteps for row in found.rows}) > 2  # the confidences make a difference
    assert found.rows[-1].stopped == (0, 0, 0, 0, len(images))
    full = rb.evaluate(snn, (images, labels)).rows[-1]
    assert found.rows[-1].accuracy == pytest.approx(full.accuracy)
    assert found.rows[-1].agreement == pytest.approx(full.agreement)


def test_images_are_divided_to_fit_the_memory_budget() -> None:
    snn, images = converted(), grid_images("MLP")
    whole = early_exit(snn, images, confidences=CONFIDENCES)
    snn.memory_budget = 1
    assert early_exit(snn, images, confidences=CONFIDENCES) == whole


def test_steps_rise_with_the_confidence_and_every_image_stops_once() -> None:
    snn, images = converted(rb.Graded(timesteps=4, magnitude=2, iterations=0)), grid_images("MLP")
    rows = early_exit(snn, images, confidences=[i / 50 for i in range(1, 51)]).rows
    means = [row.mean_timesteps for row in rows]
    assert means == sorted(means)
    assert all(sum(row.stopped) == len(images) for row in rows)
    assert all(row.accuracy is None for row in rows)


def test_the_confidence_is_chosen_on_validation_images() -> None:
    snn, images = converted(), grid_images("MLP")
    labels = snn.ann(images).argmax(1)
    half = len(images) // 2
    validation = (images[:half], labels[:half])
    found = early_exit(snn, images[half:], confidences=CONFIDENCES, validation=validation, tolerance=0.2)
    assert found.validation is not None
    full = found.validation[-1].score
    allowed = [row for row in found.validation if row.score >= full - 0.2]
    assert found.at_chosen in found.rows
    assert found.at_chosen.confidence == min(allowed, key=lambda row: row.mean_timesteps).confidence
    assert "chosen" in found.table().markdown()
    assert "chosen on validation images" in found.summary()
    assert early_exit(snn, images).at_chosen is None


def test_biases_for_one_T_have_answers_before_it() -> None:
    images = grid_images("MLP")
    snn = converted(rb.FTBC(timesteps=4, batch_size=8, iterations=1))
    assert early_exit(snn, images).rows[0].mean_timesteps <= 4


def test_evaluate_measures_early_exit_too() -> None:
    images = grid_images("MLP")
    for recipe in (rb.RateCoding(timesteps=5), rb.FTBC(timesteps=4, batch_size=8, iterations=1)):  # any T; one T
        snn = converted(recipe)
        labels = snn.ann(images).argmax(1).roll(1)
        validation, test = (images[:6], labels[:6]), [(images[6:9], labels[6:9]), (images[9:], labels[9:])]
        found = rb.evaluate(snn, test, early_exit=True, validation=validation)
        assert found.early_exit == early_exit(snn, test, validation=validation)
        assert found.early_exit.table().markdown() in found.to_markdown()
        assert rb.evaluate(snn, test).early_exit is None


def test_a_comparison_measures_early_exit_of_methods_that_stream(tmp_path: Path) -> None:
    net, images = networks.build("MLP"), grid_images("MLP")
    labels = net(images).argmax(1)
    parts = {name: (images[i::3], labels[i::3]) for i, name in enumerate(("calibration", "test", "validation"))}
    recipes = [rb.RateCoding(), rb.ParallelConversion()]
    options: dict[str, Any] = {"timesteps": (2, 5), "seeds": (0, 1), "early_exit": True, "folder": tmp_path}
    found = rb.compare(net, recipes, **parts, **options)
    for cell in found.cells:
        if cell.method == "ParallelConversion":
            assert cell.early_exit is None
            assert any("no early exit" in note for note in cell.notes)
            continue
        recipe = recipes[0].with_timesteps(cell.timesteps)
        snn = rb.convert(net, recipe, calibration=parts["calibration"][0], seed=cell.seed)
        alone = early_exit(snn, parts["test"], validation=parts["validation"])
        assert alone.at_chosen is not None
        assert cell.early_exit is not None
        assert cell.early_exit.mean_timesteps == alone.at_chosen.mean_timesteps
        assert [row.score for row in cell.early_exit.all] == [row.score for row in alone.rows]
    assert "early exit: mean T" in found.to_markdown()
    assert "mean T of early exit" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "early-exit.svg").exists()
    assert rb.compare(net, recipes, **parts, **options).cells == found.cells


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda: early_exit(converted(rb.ParallelConversion(timesteps=4)), grid_images("MLP")),
            RecipeError,
            "no answer before the last step",
        ),
        (lambda: early_exit(converted(), grid_images("MLP"), confidences=()), RecipeError, "confidences: is empty"),
        (lambda: early_exit(converted(), grid_images("MLP"), confidences=0.9), TypeError, "confidences: is 0.9"),
        (lambda: early_exit(converted(), grid_images("MLP"), confidences=(0,)), RecipeError, "confidences: has 0"),
        (lambda: early_exit(converted(), grid_images("MLP"), confidences=(True,)), RecipeError, "has True"),
        (lambda: early_exit(converted(), grid_images("MLP"), tolerance=1), RecipeError, "tolerance"),
        (lambda: early_exit(converted(), grid_images("MLP")[:0]), DataError, "is empty"),
        (
            lambda: early_exit(
                converted(), [(grid_images("MLP"), torch.zeros(len(grid_images("MLP"))).long()), grid_images("MLP")]
            ),
            DataError,
            "labels for some batches only",
        ),
        (lambda: early_exit(converted(), grid_images("MLP").half()), DataError, "dtype"),
        (lambda: early_exit(None, grid_images("MLP")), TypeError, "not a SpikingNetwork"),  # type: ignore[arg-type]
        (
            lambda: early_exit(converted(), grid_images("MLP"), validation=grid_images("MLP")),
            DataError,
            "are the test images",
        ),
        (
            lambda: rb.evaluate(converted(), grid_images("MLP"), validation=grid_images("MLP")),
            RecipeError,
            "no effect without early_exit",
        ),
        (lambda: rb.evaluate(converted(), grid_images("MLP"), early_exit=1), TypeError, "early_exit: is 1"),  # type: ignore[arg-type]
        (
            lambda: rb.compare(
                networks.build("MLP"),
                [rb.OPI()],
                grid_images("MLP"),
                grid_images("MLP"),
                (2,),
                early_exit="yes",  # type: ignore[arg-type]
            ),
            TypeError,
            "early_exit: is 'yes'",
        ),
        (
            lambda: rb.evaluate(converted(rb.ParallelConversion(timesteps=4)), grid_images("MLP"), early_exit=True),
            RecipeError,
            "no answer before the last step",
        ),
        (
            lambda: rb.compare(
                networks.build("MLP"), [rb.OPI()], grid_images("MLP"), grid_images("MLP"), (2,), early_exit=True
            ),
            DataError,
            "validation images: are missing",
        ),
    ],
)
def test_bad_input(make: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make()


def test_one_output_has_no_classes() -> None:
    net, images = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.rand(12, 4)
    snn = rb.convert(net, rb.RateCoding(timesteps=2), calibration=images)
    parts = {"calibration": images[:6], "test": images[6:9], "validation": images[9:]}
    for make in (
        lambda: early_exit(snn, images),
        lambda: rb.evaluate(snn, images, early_exit=True),
        lambda: rb.compare(net, [rb.OPI()], **parts, timesteps=(2,), early_exit=True),
    ):
        with pytest.raises(RecipeError, match="classification only"):
            make()
