"""Tasks: loss, distillation, agreement and measures of each, what labels show, and networks of each task end to end."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, r2_score
from torch import Tensor, nn
from torch.nn import functional as F

import rheobase as rb
from command_line import Run, assert_refused, runner
from rheobase.comparison.page import html_page
from rheobase.core.errors import DataError, TrainingError
from rheobase.measure.plots import accuracy_plot
from rheobase.passes.held_out import logit_error
from rheobase.tasks import IGNORED, TASKS, default, inferred, task_for
from rheobase.zoo.digits import digits

SHAPES = {"classification": (5,), "binary": (1,), "multilabel": (4,), "regression": (3,), "segmentation": (3, 4, 4)}


def random_labels(name: str, count: int, draws: torch.Generator) -> Tensor:
    shape = SHAPES[name]
    if name == "regression":
        return torch.randn(count, *shape, generator=draws)
    high, size = {
        "classification": (5, (count,)),
        "binary": (2, (count,)),
        "multilabel": (2, (count, 4)),
        "segmentation": (3, (count, 4, 4)),
    }[name]
    return torch.randint(high, size, generator=draws)


# loss, distillation, agreement


def test_one_logit_and_several_labels_have_the_binary_cross_entropy() -> None:
    z, y = torch.randn(6, 4), torch.randint(2, (6, 4))
    for smoothing in (0.0, 0.2):
        wanted = F.binary_cross_entropy_with_logits(z, y * (1 - smoothing) + smoothing / 2)
        assert float(TASKS["multilabel"].loss(z, y, smoothing)) == pytest.approx(float(wanted), rel=1e-5)
    one = F.binary_cross_entropy_with_logits(z[:, 0], y[:, 0].float())
    assert float(TASKS["binary"].loss(z[:, :1], y[:, 0])) == pytest.approx(float(one), rel=1e-5)


def test_distillation_of_one_logit_by_hand() -> None:
    z, teacher, tau = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5], [3.0]]), 2.0
    p, q = ((x.double() / tau).sigmoid() for x in (teacher, z))
    wanted = tau**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert float(TASKS["binary"].distance(z, teacher, tau)) == pytest.approx(float(wanted), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 1000), st.floats(0.01, 10))
def test_no_distance_is_blind(name: str, seed: int, by: float) -> None:
    """Outputs that differ by more than what the task does not see (softmax: one number for all) are apart."""
    task, draws = TASKS[name], torch.Generator().manual_seed(seed)
    outputs = torch.randn(3, *SHAPES[name], generator=draws)
    other = outputs.clone()
    other[0].view(-1)[0] += by
    assert float(task.distance(outputs, outputs)) == pytest.approx(0, abs=1e-6)
    assert float(task.distance(other, outputs, 2.0)) > 0
    one = (outputs[:, :1], other[:, :1]) if name in ("binary", "regression", "segmentation") else None
    assert one is None or float(task.distance(*one)) > 0


def test_pixels_without_a_label_do_not_count() -> None:
    task, outputs = TASKS["segmentation"], torch.randn(2, 3, 4, 4)
    labels = torch.randint(3, (2, 4, 4))
    labels[0, :2], labels[1, 0] = 255, IGNORED
    task.check((3, 4, 4), labels, "test data")
    targets = torch.where(labels == 255, IGNORED, labels)
    known = targets != IGNORED
    wanted = F.cross_entropy(outputs, targets, ignore_index=IGNORED)
    given = task.targets(labels)
    assert float(task.loss(outputs, given)) == pytest.approx(float(wanted))
    right = task.right(outputs, given)
    assert right is not None
    assert right.tolist() == [int((outputs.argmax(1) == targets)[known].sum()), int(known.sum())]
    assert float(task.loss(outputs, torch.full_like(targets, IGNORED))) == 0
    assert float(task.loss(outputs, task.targets(labels[:, None]))) == pytest.approx(float(wanted))


def test_the_class_255_of_a_network_with_more_classes() -> None:
    task, labels = TASKS["segmentation"], torch.full((1, 2, 2), 255)
    right = task.right(torch.randn(1, 300, 2, 2), task.targets(labels))
    assert right is not None
    assert int(right[1]) == 4


def test_no_labelled_pixel_is_no_score() -> None:
    scores = TASKS["segmentation"].scores((3, 2, 2))
    scores.update(torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), IGNORED))
    assert scores.compute() == {}


def test_masks_with_one_channel() -> None:
    """Unlabelled pixels do not make quantities of them; 0 and 255 leave a doubt."""
    found = inferred((1, 2, 2), torch.tensor([[[0, 1], [IGNORED, 1]]]))
    assert found is not None
    assert found.name == "segmentation"
    assert inferred((1, 2, 2), torch.tensor([[[0, 255], [255, 0]]])) is None


def test_agreement_is_that_of_the_decisions() -> None:
    def agreement(name: str, outputs: Tensor, reference: Tensor) -> list[float]:
        found = TASKS[name].agreement(outputs, reference)
        assert found is not None
        return found.tolist()

    assert agreement("binary", torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.1], [2.0]])) == [1, 0]
    assert agreement("multilabel", torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 1.0]])) == [0.5]
    masks = torch.tensor([[[[1.0, -1.0], [2.0, -2.0]]]])
    assert agreement("segmentation", masks, -masks) == [0]
    assert agreement("segmentation", masks, masks - 1.5) == [0.75]
    assert TASKS["regression"].agreement(torch.ones(1, 1), torch.ones(1, 1)) is None


# measures


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_measures_are_those_of_scikit_learn(batch: int) -> None:
    draws = torch.Generator().manual_seed(0)

    def measured(name: str, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        task = TASKS[name]
        scores = task.scores(outputs.shape[1:])
        for part, targets in zip(outputs.split(batch), labels.split(batch), strict=True):
            scores.update(part, task.targets(targets))
        found = scores.compute()
        assert {*found} == {measure.name for measure in task.measures}
        return found

    z, y = torch.rand(40, 4, generator=draws), torch.randint(2, (40, 4), generator=draws)
    z[::2] -= 0.5  # batches without these look like probabilities, and are not
    y[:, 3] = 0  # a label that does not occur has no precision
    found = measured("multilabel", z, y)
    assert found["map"] == pytest.approx(np.mean([average_precision_score(y[:, i], z[:, i]) for i in range(3)]))
    assert found["f1"] == pytest.approx(f1_score(y, z > 0, average="micro"))
    assert found["accuracy"] == float(((z > 0) == y).double().mean())
    found = measured("binary", z[:, :1], y[:, 0])
    assert found["f1"] == pytest.approx(f1_score(y[:, 0], z[:, 0] > 0))
    outputs, targets = 100 + torch.randn(40, 3, generator=draws), 100 + torch.randn(40, 3, generator=draws)
    found = measured("regression", outputs, targets)
    assert found["r2"] == pytest.approx(r2_score(targets.double(), outputs.double()))
    assert found["mse"] == pytest.approx(float(F.mse_loss(outputs.double(), targets.double())))
    maps, classes = torch.randn(40, 3, 2, 2, generator=draws), torch.randint(2, (40, 2, 2), generator=draws)
    assert measured("segmentation", maps, classes)["miou"] == pytest.approx(
        jaccard_score(classes.flatten(), maps.argmax(1).flatten(), average="macro")
    )
    assert measured("segmentation", maps[:, :1], classes)["accuracy"] == pytest.approx(
        float(((maps[:, 0] > 0) == classes).double().mean())
    )


def test_a_torchvision_without_its_compiled_operators_is_importable(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(lambda *_: None)\n"
    )
    code = "from rheobase.core.torchvision import repair_torchvision as repair; repair(); repair(); import torchvision"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_torchmetrics_is_loaded_when_something_is_measured() -> None:
    code = "import sys, rheobase as rb; rb.evaluate; rb.train; rb.compare; assert 'torchmetrics' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# what labels show


@pytest.mark.parametrize(
    ("outputs", "labels", "name"),
    [
        ((10,), torch.arange(4), "classification"),
        ((1,), torch.tensor([0, 1, 1]), "binary"),
        ((1,), torch.tensor([[True], [False]]), "binary"),
        ((), torch.tensor([0, 1, 1]), "binary"),
        ((1,), torch.tensor([0, 3, 1]), "regression"),
        ((1,), torch.tensor([0.0, 1.0]), None),  # binary or regression
        ((1,), torch.tensor([[0.25], [2.0]]), "regression"),
        ((3,), torch.tensor([[0, 1, 1], [0, 0, 0]]), "multilabel"),
        ((3,), torch.tensor([[0, 1, 0], [1, 0, 0]]), None),  # one-hot
        ((3,), torch.tensor([[0.0, 1.0, 1.0]]), None),
        ((3,), torch.tensor([[0.5, 0.25, 0.25]]), None),  # probabilities of classes
        ((3,), torch.tensor([[0.5, 0.9, 2.0]]), "regression"),
        ((3, 2, 2), torch.zeros(4, 2, 2).long(), "segmentation"),
        ((3, 2, 2), torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "segmentation"),
        ((1, 2, 2), torch.ones(4, 2, 2).bool(), "segmentation"),
        ((1, 2, 2), torch.ones(4, 2, 2), None),
        ((1, 2, 2), torch.rand(4, 2, 2) + 1, "regression"),
        ((3, 2, 2), torch.rand(4, 3, 2, 2), "regression"),
        ((3, 2, 2), torch.arange(4), None),
        ((10,), torch.rand(4), None),
    ],
)
def test_a_task_is_inferred_where_labels_leave_no_doubt(
    outputs: tuple[int, ...], labels: Tensor, name: str | None
) -> None:
    found = inferred(outputs, labels)
    assert (None if found is None else found.name) == name
    if found is not None:
        found.check(outputs, labels, "test data")
        loss = found.loss(torch.randn(len(labels), *outputs), found.targets(labels))
        assert bool(torch.isfinite(loss))
        return
    with pytest.raises(DataError, match=r"labels of the test data: .* Remedy: (pass task=|leave them out)"):
        task_for(None, outputs, labels, "test data")


def test_the_task_without_labels() -> None:
    assert [default(outputs).name for outputs in ((4,), (1,), (), (3, 8, 8), (1, 8, 8))] == [
        *("classification", "regression", "regression", "segmentation", "regression")
    ]


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "said"),
    [
        (
            "classification",
            (3,),
            torch.tensor([0, 3]),
            "label of image 6 of the test data: is 3, but the network has 3",
        ),
        ("binary", (1,), torch.tensor([0, 2]), "image 6 .*: is 2, but must be 0 or 1"),
        ("multilabel", (2,), torch.tensor([[0, 1], [-1, 0]]), "image 6 .*: is -1"),
        ("multilabel", (2,), torch.tensor([0, 1]), r"\[N, 2\]"),
        ("regression", (1,), torch.tensor([1.0, float("nan")]), "image 6 .*: is nan"),
        ("regression", (2,), torch.tensor([1.0, 2.0]), r"of shape \[N, 2\]"),
        ("segmentation", (3, 2, 2), torch.full((2, 2, 2), 3), "image 5 .*: is 3, but the network has 3 classes"),
        ("segmentation", (1, 2, 2), torch.full((2, 2, 2), 255), "image 5 .*: is 255, but must be 0 or 1"),
        ("segmentation", (3, 2, 2), torch.zeros(2, 4, 4).long(), r"\[N, 2, 2\]; resize the labels"),
    ],
)
def test_labels_that_do_not_fit_the_task(name: str, outputs: tuple[int, ...], labels: Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        TASKS[name].check(outputs, labels, "test data", 5)


def test_tasks_that_the_outputs_do_not_fit() -> None:
    with pytest.raises(DataError, match=r'task: is "binary", but .*\[4\].* Remedy: use "classification" or'):
        task_for("binary", (4,), None, "network")
    with pytest.raises(DataError, match=r"task: is 'boxes'.*classification"):
        task_for("boxes", (4,), None, "network")


# networks of each task, end to end


def small(outputs: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    head = (nn.Flatten(), nn.Linear(54, 16), nn.ReLU(), nn.Linear(16, outputs))
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), *head)


def maps(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, outputs, 3, padding=1))


def problem(name: str) -> tuple[nn.Module, Any, Any]:
    """A network, and training and test data, of handwritten digits."""
    networks = {"binary": 1, "multilabel": 3, "regression": 1, "classification": 10}
    network = maps(3) if name == "segmentation" else small(networks[name])

    def labelled(images: Tensor, digit: Tensor) -> tuple[Tensor, Tensor]:
        return images, {
            "classification": lambda: digit,
            "binary": lambda: (digit > 4).long(),
            "multilabel": lambda: torch.stack([digit % 2 == 0, digit > 4, digit % 3 == 0], 1),
            "regression": lambda: digit.float() / 2,
            "segmentation": lambda: (images[:, 0] > 0.2).long() + (images[:, 0] > 0.7).long(),
        }[name]()

    data = digits()
    return network, labelled(*data.train), labelled(*data.test)


STAGES = rb.Recipe(
    name="stages",
    timesteps=2,
    neuron=rb.ParallelConversion(timesteps=2).neuron,
    calibration=(rb.passes.Thresholds(), rb.passes.ErrorCalibration()),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_end_to_end(name: str, tmp_path: Path) -> None:
    network, train, test = problem(name)
    measures = TASKS[name].measures
    training = rb.Training(epochs=2, learning_rate=3e-3, optimiser="adamw", batch_size=32, keep="best")
    trained = rb.train(network, train, training)
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    assert (trained.history[0].validation_accuracy is None) == (name == "regression")

    for recipe in (STAGES, rb.DAParallel(timesteps=2)):
        snn = rb.convert(trained.model, recipe, calibration=train)
        assert snn.provenance.task == name
    tuned = rb.train(
        rb.convert(trained.model, rb.OPI(timesteps=2), calibration=train),
        train,
        training.replace(epochs=1, learning_rate=1e-4),
    ).model
    assert tuned.provenance.task == name  # type: ignore[union-attr]

    rb.save(snn, tmp_path / "snn")
    loaded = rb.load(tmp_path / "snn")
    result = rb.evaluate(loaded, test)
    assert result.task == name
    for scores in (result.ann_scores, *(row.scores for row in result.rows)):
        assert list(scores) == [measure.name for measure in measures]
    assert all((row.agreement is None) == (name == "regression") for row in result.rows)
    assert all(row.accuracy == row.scores.get("accuracy") for row in result.rows)
    assert all(measure.heading in str(result) for measure in measures)
    assert json.loads(json.dumps(result.to_json()))["rows"][0]["scores"].keys() == result.rows[0].scores.keys()
    accuracy_plot({"snn": result}, tmp_path / "plot.svg")
    assert measures[0].heading in (tmp_path / "plot.svg").read_text() or measures[0].name == "r2"

    found = rb.compare(
        trained.model,
        [rb.OPI(), rb.RateCoding()],
        train,
        (test[0][:200], test[1][:200]),
        (1, 2),
        validation=(test[0][200:], test[1][200:]),
        budget={"latency": 2},
        folder=tmp_path / "compared",
    )
    first = found.entries[0].over_seeds(f"test.{measures[0].name}", measures[0].scale)
    assert first is not None
    assert format(first, ".2f" if measures[0].share else ".4f") in found.to_markdown()
    assert all(measure.name in found.to_csv().splitlines()[0] for measure in measures)
    page = html.unescape(html_page(found))
    assert all(measure.meaning in page for measure in measures)
    assert found.choice is not None
    assert found.choice.method is not None
    assert measures[0].heading in found.choice.reason or "accurate" in found.choice.reason
    again = rb.compare(trained.model, [rb.OPI()], train, (test[0][:200], test[1][:200]), (1,))
    assert again.cells[0].test == found.cells[0].test


@pytest.mark.parametrize("name", ["classification", "regression", "segmentation"])
def test_a_budget_is_met_by_the_measure_of_the_task(name: str) -> None:
    network, (images, labels), _ = problem(name)
    for calibration in ((images[:80], labels[:80]), images[:80]):
        found = rb.convert_within_budget(
            network, {"latency": 2}, calibration=calibration, timesteps=(1, 2), magnitudes=(1,), task=name
        )
        best = max(found.rows, key=lambda row: row.score)
        assert (found.choice.timesteps, found.task) == (best.timesteps, name)
        measure = TASKS[name].measures[0] if isinstance(calibration, tuple) else TASKS[name].without_targets
        assert best.measure == measure
        assert measure.heading in str(found)


def test_one_logit_agrees_by_its_sign() -> None:
    network, (images, labels), (tests, answers) = problem("binary")
    with torch.no_grad():
        network[-1].bias -= network(images).median()  # type: ignore[index]
    snn = rb.convert(network, rb.RateCoding(timesteps=1), calibration=(images, labels))
    row = rb.evaluate(snn, (tests, answers), (1,)).rows[0]
    with torch.no_grad():
        mine, theirs = snn(tests)[:, 0] > 0, snn.ann(tests)[:, 0] > 0
    assert row.agreement == float((mine == theirs).double().mean()) < 1
    assert row.accuracy == float((mine == answers).double().mean())
    alone = rb.evaluate(rb.convert(network, rb.RateCoding(timesteps=1), calibration=images), tests, (1,))
    assert alone.rows[0].agreement is None
    assert 'pass task="binary"' in str(alone)


def test_a_regression_that_a_pass_makes_worse_is_reverted() -> None:
    network, (images, labels), _ = problem("regression")
    plain = rb.Recipe(name="plain", timesteps=4, calibration=(rb.passes.Thresholds(),))
    wild = plain.replace(calibration=(*plain.calibration, rb.passes.ThroughTime(epochs=1, learning_rate=0.5)))
    for calibration in ((images, labels), images):
        before, after = (rb.convert(network, recipe, calibration=calibration) for recipe in (plain, wild))
        notes = after.provenance.passes[-1]["notes"]
        assert any("reverted" in note for note in notes), notes
        assert torch.equal(before(images[:50]), after(images[:50]))


def test_a_regression_is_distilled_by_its_outputs() -> None:
    network, (images, labels), _ = problem("regression")
    plain = rb.Recipe(name="plain", timesteps=2, calibration=(rb.passes.Thresholds(),))
    tuned = plain.replace(calibration=(*plain.calibration, rb.passes.ThroughTime(epochs=3, learning_rate=1e-3)))
    before, after = (rb.convert(network, recipe, calibration=(images, labels)) for recipe in (plain, tuned))
    held_out = digits().test[0]
    assert logit_error(after, held_out) < 0.8 * logit_error(before, held_out)


def test_a_regression_is_not_judged_at_another_scale() -> None:
    network, (images, labels), _ = problem("regression")
    snn = rb.convert(network, STAGES, calibration=(images, labels))
    notes = snn.provenance.passes[-1]["notes"]
    assert notes
    assert not any("at the best scale" in note for note in notes)


def test_labels_of_no_task_are_ignored_with_a_warning_and_classes_out_of_range_are_refused() -> None:
    images = torch.rand(40, 1, 8, 8)
    with pytest.warns(rb.RheobaseWarning, match=r"ignored: labels of the calibration data: .*task="):
        snn = rb.convert(small(1), rb.OPI(timesteps=2), calibration=(images, torch.arange(40) % 2 * 1.0))
    assert snn.provenance.task is None
    assert any(note.startswith("ignored: labels") for note in snn.provenance.notes)
    given = rb.convert(small(1), rb.OPI(timesteps=2), calibration=(images, torch.arange(40) % 2 * 1.0), task="binary")
    assert given.provenance.task == "binary"
    for function, recipe in ((rb.convert, rb.OPI(timesteps=2)), (rb.quantise, rb.Pascal(levels=2))):
        with pytest.raises(DataError, match=r"is 1[0-9], but the network has 10 classes"):
            function(small(10), recipe, calibration=(images, torch.arange(40) % 20))  # type: ignore[operator]
    with pytest.raises(DataError, match='pass task="binary" or task="regression"'):
        rb.evaluate(snn, (images, torch.arange(40) % 2 * 1.0))


# training on any targets


def settings_of(**changes: Any) -> rb.Training:
    return rb.Training(**{"epochs": 1, "learning_rate": 0.01, "batch_size": 10, "optimiser": "adamw", **changes})


def boxes(outputs: Tensor, labels: Any, teacher: Tensor | None) -> Tensor:
    assert labels["boxes"].dtype == torch.float32
    assert labels["classes"].dtype == torch.int64
    return F.l1_loss(outputs[:, :4], labels["boxes"][:, 0]) + F.cross_entropy(outputs[:, 4:], labels["classes"])


class Boxes(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return torch.full((1, 8, 8), i / 40), {"boxes": torch.ones(2, 4, dtype=torch.float64), "classes": i % 3}


def test_a_loss_of_ones_own_takes_any_targets() -> None:
    images = torch.rand(40, 1, 8, 8)
    weights = torch.rand(40, 1)

    def weighted(outputs: Tensor, labels: Any, teacher: Tensor | None) -> Tensor:
        assert labels.dtype == torch.float32
        return (outputs - labels).abs().mean()

    for labels in (weights, weights.double(), weights.round()):
        rb.train(small(1), (images, labels), settings_of(), loss=weighted)
    dense = rb.train(maps(2), (images, torch.rand(40, 2, 8, 8)), settings_of(), loss=weighted)
    assert dense.history[0].validation_accuracy is None
    fields = {"boxes": torch.rand(40, 2, 4).double(), "classes": torch.arange(40, dtype=torch.uint8) % 3}
    batches = [(images[i : i + 8], {k: v[i : i + 8] for k, v in fields.items()}) for i in range(0, 40, 8)]
    one, two = (rb.train(small(7), data, settings_of(), loss=boxes) for data in ((images, fields), batches))
    assert one.history[0].train_loss == two.history[0].train_loss
    rb.train(small(7), Boxes(), settings_of(), loss=boxes)
    with pytest.raises(DataError, match="fields boxes, classes, which only a loss of your own"):
        rb.train(small(7), (images, fields), settings_of())
    with pytest.raises(DataError, match="fields boxes, classes, which only a loss of your own"):
        rb.convert(small(7), rb.OPI(timesteps=2), calibration=batches)
    short = {**fields, "boxes": fields["boxes"][:39]}
    with pytest.raises(DataError, match="40 images but 39 labels"):
        rb.train(small(7), (images, short), settings_of(), loss=boxes)


def test_training_without_effect_or_with_labels_that_would_not_move_is_refused() -> None:
    images = torch.rand(40, 1, 8, 8)
    with pytest.raises(TrainingError, match="label_smoothing: has no effect on a regression"):
        rb.train(small(1), (images, torch.randn(40)), settings_of(label_smoothing=0.1))
    masks = (images[:, 0] > 0.5).long()
    for crop in ({"crop_padding": 0}, {"resized_crop": (0.08, 1), "flip": False}):
        with pytest.raises(TrainingError, match="augment: moves the images"):
            rb.train(maps(2), (images, masks), settings_of(augment=rb.training.Augmentation(**crop)))
    still = settings_of(augment=rb.training.Augmentation(crop_padding=0, flip=False, cutout=2))
    rb.train(maps(2), (images, masks), still)


def test_the_best_epoch_of_a_regression_has_the_lowest_loss() -> None:
    network, train, _ = problem("regression")
    training = rb.Training(epochs=4, learning_rate=0.3, optimiser="adamw", keep="best", schedule="constant")
    trained = rb.train(network, train, training)
    losses = [record.validation_loss or 0.0 for record in trained.history]
    assert losses[trained.epoch - 1] == min(losses)


# the command line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


NETWORKS = """
from torch import nn

def one():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
"""


@pytest.mark.slow
def test_the_commands_take_a_task(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task_nets.py").write_text(NETWORKS)
    draws = np.random.default_rng(0)
    x, y = draws.integers(0, 256, (200, 8, 8), np.uint8), draws.integers(0, 2, 200) * 1.0  # or quantities
    np.savez("d.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
    data = ["--data", "d.npz", "--folder", "train", "--test-folder", "test"]
    converted = ["convert", "task_nets:one", *data, "--out", "snn", "--method", "OPI"]
    training = ["train", "task_nets:one", *data, "--option", "levels=2", "--epochs", 1, "--batch-size", 50]
    refused = run(*training, "--out", "none")
    assert_refused(refused._replace(err=refused.err.splitlines()[-1]), 'task="binary" or task="regression"')
    assert run(*converted, "--task", "binary", "--json").document["evaluation"]["task"] == "binary"
    evaluate = ["evaluate", "snn", "--data", "d.npz", "--folder", "test", "--json"]
    assert run(*evaluate).document["evaluation"]["task"] == "binary"  # as stored
    assert "r2" in run(*evaluate, "--task", "regression").document["evaluation"]["ann_scores"]
    trained = run(*training, "--out", "run", "--task", "regression", "--json")
    assert trained.document["evaluation"]["task"] == "regression"
    compared = ["compare", "task_nets:one", *data, "--methods", "OPI", "--timesteps", 2, "--json"]
    found = run(*compared, "--out", "c", "--task", "regression")
    assert found.document["entries"][0]["mse"]["mean"] > 0
    assert run(*compared, "--out", "c", "--task", "binary").code == 1  # another task than that of the folder
