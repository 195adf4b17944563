"""Training: what is learnt, what stops it, and that an interrupted run ends with the bits of an uninterrupted one."""

from __future__ import annotations

import copy
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import rheobase as rb
from rheobase.tasks import TASKS
from rheobase.training.batch_norm import average_statistics
from rheobase.training.loop import _loss, _optimiser
from rheobase.zoo.digits import digits

SETTINGS = rb.Training(
    epochs=4, learning_rate=0.05, batch_size=20, augment=rb.training.Augmentation(crop_padding=1, cutout=2)
)


def small(normalised: bool = True, seed: int = 0) -> nn.Module:
    """Convolutions, batch norm and dropout, or without both."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), rb.QCFS(levels=8, threshold=2.0)]
    layers += [nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16) if normalised else nn.Identity(), nn.ReLU()]
    layers += [nn.Dropout(0.2) if normalised else nn.Identity(), nn.Flatten(), nn.Linear(144, 10)]
    return nn.Sequential(*layers)


def few(count: int = 100) -> tuple[Tensor, Tensor]:
    images, labels = digits().train
    return images[:count], labels[:count]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.double().reshape(-1) for value in model.state_dict().values()])


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def but(**fields: Any) -> rb.Training:
    return SETTINGS.replace(**fields)


class Stop:
    """A penalty of nothing, that does something at one step."""

    def __init__(self, step: int = -1, pause: float | None = None) -> None:
        self.left, self.pause = step, pause

    def __call__(self, model: nn.Module) -> Tensor:
        self.left -= 1
        if self.left == 0:
            if self.pause is None:
                raise KeyboardInterrupt
            time.sleep(self.pause)
        return torch.zeros(())


# -- learning ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_network_learns_the_digits() -> None:
    parts = digits()
    training = but(epochs=8, batch_size=64, augment=rb.training.Augmentation(crop_padding=1, flip=False), keep="best")
    trained = rb.train(small(), parts.train, training, validation=parts.validation)
    assert not trained.model.training
    with torch.no_grad():
        accuracy = float((trained.model(parts.test[0]).argmax(1) == parts.test[1]).float().mean())
        validated = float((trained.model(parts.validation[0]).argmax(1) == parts.validation[1]).float().mean())
    assert accuracy > 0.93
    best = trained.history[trained.epoch - 1]
    assert best.validation_accuracy == pytest.approx(validated, abs=1e-6)
    assert best.validation_accuracy == max(record.validation_accuracy for record in trained.history)


def test_the_first_step_is_sgd_by_hand() -> None:
    images, labels = few(12)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    x = images.flatten(1).double()
    error = torch.softmax(x @ weight.T + bias, 1) - F.one_hot(labels, 10)
    weight_after = weight - 0.1 * (error.T @ x / 12 + 0.01 * weight)
    bias_after = bias - 0.1 * error.mean(0)  # biases do not decay
    training = rb.Training(epochs=1, learning_rate=0.1, batch_size=12, weight_decay=0.01)
    trained = rb.train(model, (images, labels), training, validation=None).model
    torch.testing.assert_close(trained[1].weight.double(), weight_after, rtol=0, atol=1e-6)
    torch.testing.assert_close(trained[1].bias.double(), bias_after, rtol=0, atol=1e-6)


def test_the_network_and_the_random_state_stay_as_they_were() -> None:
    model, state = small(), torch.get_rng_state()
    model.train()
    before = flat(model).clone()
    torch.set_rng_state(state)
    trained = rb.train(model, few(), but(epochs=1), parameters=lambda name: "threshold" in name)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(flat(model), before)
    assert model.training
    assert all(parameter.requires_grad for parameter in (*model.parameters(), *trained.model.parameters()))


@pytest.mark.parametrize("fields", [{}, {"optimiser": "adamw", "learning_rate": 0.01}])
def test_the_seed_decides(fields: dict[str, Any]) -> None:
    training = but(epochs=1, **fields)
    torch.manual_seed(1)
    one = rb.train(small(), few(), training, seed=3)
    torch.manual_seed(2)
    assert same(rb.train(small(), few(), training, seed=3).model, one.model)
    assert not same(rb.train(small(), few(), training, seed=4).model, one.model)


def test_data_in_every_form_gives_the_same_weights() -> None:
    images, labels = few()
    training = but(epochs=1)
    one = rb.train(small(), (images, labels), training)
    dataset = TensorDataset(images, labels)
    for data in (dataset, DataLoader(dataset, batch_size=7), [(images[:60], labels[:60]), (images[60:], labels[60:])]):
        other = rb.train(small(), data, training)
        assert same(other.model, one.model)
        assert other.history[0].validation_loss == one.history[0].validation_loss


def test_learning_rates_by_hand() -> None:
    training = rb.Training(epochs=3, warmup_epochs=1, learning_rate=0.8)
    rates = [training.rate_at(step, 4) for step in range(12)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[8] == pytest.approx(0.4)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    constant = rb.Training(epochs=3, learning_rate=0.8, schedule="constant")
    assert {constant.rate_at(step, 4) for step in range(12)} == {0.8}


def test_weight_decay_leaves_out_norms_biases_and_thresholds() -> None:
    model = small()
    groups = _optimiser(model, SETTINGS).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = ({names[id(parameter)] for parameter in group["params"]} for group in groups)
    assert decayed == {"0.weight", "2.weight", "7.weight"}
    assert free == {"0.bias", "1.threshold", "2.bias", "3.weight", "3.bias", "7.bias"}
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    (everything,) = _optimiser(model, but(decayed="all")).param_groups
    assert everything["weight_decay"] == 5e-4
    assert len(everything["params"]) == len(list(model.parameters()))


def test_only_the_chosen_parameters_train() -> None:
    model = small()
    trained = rb.train(model, few(), but(epochs=1), parameters=lambda name: name.endswith("threshold")).model
    changed = [
        name
        for (name, a), b in zip(model.named_parameters(), trained.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed == ["1.threshold"]


def test_a_penalty_is_added_to_the_loss() -> None:
    images, labels = few()
    training = but(epochs=1, batch_size=100, augment=None)
    plain = rb.train(small(), (images, labels), training, validation=None)
    held = rb.train(
        small(), (images, labels), training, validation=None, penalty=lambda m: 1000 * (m[1].threshold - 2).square() + 5
    )
    assert held.history[0].train_loss == pytest.approx(plain.history[0].train_loss + 5, abs=1e-5)

    def to_zero(m: nn.Module) -> Tensor:
        return 10 * m[7].weight.square().sum()

    pulled = rb.train(small(), (images, labels), training, validation=None, penalty=to_zero)
    weights = [float(trained.model[7].weight.detach().norm()) for trained in (pulled, plain)]
    assert weights[0] < 0.5 * weights[1]


def test_a_loss_of_ones_own() -> None:
    def margin(logits: Tensor, labels: Tensor | None, teacher: Tensor | None) -> Tensor:
        assert teacher is None
        return F.multi_margin_loss(logits, labels)

    trained = rb.train(small(), few(), but(epochs=1), loss=margin)
    assert 0 < trained.history[0].train_loss < 2


# -- distillation --------------------------------------------------------------------------------------------


def test_distillation_losses_by_hand() -> None:
    z, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p = torch.softmax(teacher.double() / 2, 1)
    q = torch.softmax(z.double() / 2, 1)
    divergence = float((p * (p.log() - q.log())).sum()) * 4
    entropy = -float(torch.log_softmax(z.double(), 1)[0, 1])
    task, training = TASKS["classification"], but(temperature=2.0, teacher_weight=0.25)
    assert float(_loss(task, training, z, torch.tensor([1]), teacher)) == pytest.approx(
        0.75 * entropy + 0.25 * divergence
    )
    assert float(_loss(task, training, z, None, teacher)) == pytest.approx(divergence)
    assert float(_loss(task, training, z, torch.tensor([1]), None)) == pytest.approx(entropy)
    squared = but(teacher_loss="squared_error")
    assert float(_loss(task, squared, z, None, teacher)) == pytest.approx((1 + 4) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "squared_error"])
def test_a_teacher_stands_in_for_labels(kind: str) -> None:
    images, labels = digits().train
    teacher = rb.train(small(), (images, labels), but(epochs=6, batch_size=50, augment=None)).model.train()
    before = flat(teacher).clone()
    training = but(epochs=6, batch_size=50, augment=None, teacher_loss=kind, keep="best")
    student = rb.train(small(seed=1), images, training, teacher=teacher)
    record = student.history[student.epoch - 1]
    assert record.train_accuracy is None
    assert record.validation_accuracy is None
    assert record.validation_loss == min(r.validation_loss for r in student.history)
    assert record.validation_loss < 0.5 * student.history[0].validation_loss
    with torch.no_grad():
        assert float((student.model(images).argmax(1) == labels).float().mean()) > 0.85
    assert torch.equal(flat(teacher), before)
    assert teacher.training


# -- choosing an epoch ---------------------------------------------------------------------------------------


def test_the_best_epoch_is_judged_by_validation_images_alone() -> None:
    images, labels = few(200)
    wrong = (labels + 1) % 10  # the longer the training, the worse here
    training = but(epochs=4, keep="best", learning_rate=0.2, batch_size=50, augment=None)
    trained = rb.train(small(), (images, labels), training, validation=(images, wrong))
    scores = [(r.validation_accuracy, -r.validation_loss) for r in trained.history]
    assert trained.epoch == 1 + scores.index(max(scores))
    best = max(trained.history, key=lambda r: r.train_accuracy)
    assert trained.epoch < best.epoch
    with torch.no_grad():
        loss = float(F.cross_entropy(trained.model(images), wrong))
    assert loss == pytest.approx(trained.history[trained.epoch - 1].validation_loss, rel=1e-4)


def test_training_stops_early() -> None:
    images, labels = few(200)
    training = but(epochs=50, patience=2, learning_rate=0.2, batch_size=50, augment=None)
    trained = rb.train(small(), (images, labels), training, validation=(images, (labels + 1) % 10))
    scores = [(r.validation_accuracy, -r.validation_loss) for r in trained.history]
    assert len(scores) < 50
    assert len(scores) - (1 + scores.index(max(scores))) == 2
    assert trained.epoch == len(scores)


# -- statistics of batch normalisation -----------------------------------------------------------------------


def normalised(kind: str) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
    if kind == "graph":
        return rb.quantise(network, rb.QVM(levels=4), calibration=few()[0])
    return network


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modules", "graph"])
@pytest.mark.parametrize("sizes", [(7,), (4, 4, 4), (2, 9, 3, 31)])
def test_running_statistics_become_means_over_the_batches(kind: str, sizes: tuple[int, ...]) -> None:
    network = normalised(kind).train()
    images = few(sum(sizes))[0]
    average_statistics(network, images.split(sizes))
    means, variances = [], []
    for part in images.double().split(sizes):
        state = network.state_dict()
        arriving = F.conv2d(part, state["0.weight"].double(), state["0.bias"].double())
        values = arriving.movedim(1, 0).flatten(1)
        means.append(values.mean(1))
        variances.append(((values - values.mean(1, keepdim=True)) ** 2).sum(1) / (values.shape[1] - 1))
    state = network.state_dict()
    torch.testing.assert_close(state["1.running_mean"].double(), sum(means) / len(sizes), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state["1.running_var"].double(), sum(variances) / len(sizes), rtol=1e-5, atol=1e-6)

    network(images)  # and go on as before, from there
    after = network.state_dict()["1.running_mean"].double()
    values = F.conv2d(images.double(), state["0.weight"].double(), state["0.bias"].double()).movedim(1, 0).flatten(1)
    torch.testing.assert_close(after, 0.9 * sum(means) / len(sizes) + 0.1 * values.mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modules", "graph"])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_exact_statistics_are_those_of_the_weights_that_are_kept(kind: str, keep: str) -> None:
    training = but(epochs=3, augment=None, keep=keep, learning_rate=0.3)
    images, labels = few(80)
    checked = (images, (labels + 1) % 10)  # the first epoch is the best
    exact = training.replace(exact_statistics=True)
    trained = rb.train(normalised(kind), (images, labels), exact, validation=checked)
    plain = rb.train(normalised(kind), (images, labels), training, validation=checked)
    state, before = trained.model.state_dict(), plain.model.state_dict()
    assert all(
        torch.equal(state[name], before[name]) for name in state if "running" not in name and "tracked" not in name
    )
    assert trained.history[0].validation_loss == plain.history[0].validation_loss
    assert keep == "last" or trained.epoch < 3
    arriving = F.conv2d(images.double(), state["0.weight"].double(), state["0.bias"].double())
    mean = arriving.mean((0, 2, 3))  # of batches of one size, that together are all images
    torch.testing.assert_close(state["1.running_mean"].double(), mean, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before["1.running_mean"].double(), mean, rtol=1e-3)
    with torch.no_grad():
        loss = float(F.cross_entropy(trained.model(images), checked[1]))
    (note,) = (note for note in trained.notes if note.startswith("statistics of batch normalisation from 80 images"))
    was = trained.history[trained.epoch - 1]
    assert f"validation loss {was.validation_loss:.4g} -> {loss:.4g}, accuracy" in note


def test_exact_statistics_of_a_network_without_batch_normalisation() -> None:
    trained = rb.train(small(normalised=False), few(), but(epochs=1, exact_statistics=True))
    assert trained.notes[0].startswith("exact_statistics: ")


# -- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"exact_statistics": True},
        {"optimiser": "adamw", "clip": 0.5, "keep": "best"},
        {"momentum": 0.0, "patience": 3, "warmup_epochs": 2},
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(fields: dict[str, Any], tmp_path: Path) -> None:
    training = but(**fields)
    whole = rb.train(small(), few(), training, folder=tmp_path / "whole", penalty=Stop())
    with pytest.raises(KeyboardInterrupt):
        rb.train(small(), few(), training, folder=tmp_path / "cut", penalty=Stop(2 * 4 + 2))
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    again = rb.train(small(seed=9), few(), training, folder=tmp_path / "cut", penalty=Stop())
    assert same(again.model, whole.model)
    assert again.epoch == whole.epoch
    assert [replace(record, seconds=0) for record in again.history] == [
        replace(record, seconds=0) for record in whole.history
    ]
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    kept = load_file(tmp_path / "cut" / "weights.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in whole.model.state_dict().items())
    files = {"checkpoint.safetensors", "metrics.jsonl", "weights.safetensors"}
    assert {path.name for path in (tmp_path / "cut").iterdir()} == files
    finished = rb.train(small(), few(), training, folder=tmp_path / "cut", penalty=Stop(1))  # has no step to do
    assert same(finished.model, whole.model)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, *arguments], env=environment, stderr=subprocess.PIPE)


def finish(child: subprocess.Popen[bytes]) -> None:
    try:
        _, error = child.communicate(timeout=200)
    finally:
        child.kill()  # a hang must not outlive the test
    assert child.returncode == 0, error.decode()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    metrics = tmp_path / "cut" / "metrics.jsonl"
    child = start("kill", str(tmp_path / "cut"))
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) == 2):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    again = rb.train(small(), few(), SETTINGS, folder=tmp_path / "cut", penalty=Stop())
    whole = rb.train(small(), few(), SETTINGS, penalty=Stop())
    assert len(again.history) == 4
    assert same(again.model, whole.model)


@pytest.mark.slow
def test_two_processes_take_exact_statistics_together(tmp_path: Path) -> None:
    finish(start("statistics", str(tmp_path)))
    state = load_file(tmp_path / "weights.safetensors")
    arriving = F.conv2d(few(80)[0].double(), state["0.weight"].double(), state["0.bias"].double())
    torch.testing.assert_close(state["1.running_mean"].double(), arriving.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    finish(start("two", str(tmp_path)))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    one = rb.train(small(normalised=False), few(), but(epochs=3))
    two = load_file(tmp_path / "weights.safetensors")
    moved = float((flat(one.model) - flat(small(normalised=False))).norm())
    assert moved > 0.1
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)
    for line, record in zip(lines, one.history, strict=True):
        found = json.loads(line)
        assert found["train_loss"] == pytest.approx(record.train_loss, rel=1e-5)
        assert found["train_accuracy"] == pytest.approx(record.train_accuracy)
        assert found["validation_loss"] == pytest.approx(record.validation_loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": but(learning_rate=0.04)}, r"setting learning_rate was 0\.05 and is now 0\.04"),
        ({"training": but(augment=rb.training.Augmentation(crop_padding=2, cutout=2))}, "augment crop_padding was 1"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"data": few(99)}, "training data was"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, "network 1.weight was"),
        ({"teacher": small()}, "teacher was None"),
        ({"parameters": lambda name: "threshold" in name}, "trained parameters was"),
        ({"validation": 0.2}, r"validation fraction was 0\.1"),
    ],
)
def test_another_run_is_not_resumed(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"model": small(), "data": few(), "training": SETTINGS, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        rb.train(**arguments, penalty=Stop(6))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(rb.core.errors.TrainingError, match=message):
        rb.train(**{**arguments, **change}, penalty=Stop())
    with pytest.raises(rb.core.errors.TrainingError, match="resume=True"):
        rb.train(**arguments, penalty=Stop(), resume=False)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    rb.train(small(), few(), but(epochs=1), folder=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(rb.core.errors.TrainingError, match=r"checkpoint\.safetensors: is damaged"):
        rb.train(small(), few(), but(epochs=1), folder=tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(rb.core.errors.TrainingError, match="cannot be written"):
        rb.train(small(), few(), SETTINGS, folder=tmp_path / "file")


# -- guards --------------------------------------------------------------------------------------------------


def test_a_threshold_that_leaves_its_range_stops_the_run(tmp_path: Path) -> None:
    def pull(model: nn.Module) -> Tensor:
        return 3.0 * model[1].threshold.sum()

    training = but(epochs=20, schedule="constant")
    with pytest.raises(
        rb.core.errors.TrainingError, match=r"epoch \d+, step \d: 1\.threshold is -.*smaller learning rate"
    ) as caught:
        rb.train(small(), few(), training, penalty=pull, folder=tmp_path)
    epoch = int(str(caught.value).split()[1].rstrip(","))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == epoch - 1 >= 1
    assert float(load_file(tmp_path / "checkpoint.safetensors")["model/1.threshold"]) > 0


def test_a_threshold_that_begins_out_of_range() -> None:
    model = small()
    model[1].threshold.data.fill_(float("nan"))
    with pytest.raises(rb.core.errors.TrainingError, match=r"1\.threshold holds NaN"):
        rb.train(model, few(), SETTINGS)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    def explode(model: nn.Module) -> Tensor:
        return model[7].weight.sum() * float("nan")

    with pytest.raises(rb.core.errors.TrainingError, match="epoch 1, step 1: the loss is not finite"):
        rb.train(small(False), few(), SETTINGS, penalty=explode, parameters=lambda name: name.startswith("7"))


def test_gradients_are_clipped() -> None:
    training = but(epochs=1, batch_size=100, clip=1e-3, augment=None, weight_decay=0.0)
    model = small(False)
    trained = rb.train(model, few(), training, validation=None).model
    assert float((flat(trained) - flat(model)).norm()) == pytest.approx(0.05 * 1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0, "learning_rate": 0.1}, "epochs.*greater than or equal to 1"),
        ({"epochs": 1, "learning_rate": 0.0}, "learning_rate.*greater than 0"),
        ({"epochs": 1, "learning_rate": float("nan")}, "learning_rate"),
        ({"epochs": 1, "learning_rate": 0.1, "lr": 1}, "unknown field 'lr'.*known fields: epochs, learning_rate"),
        ({"epochs": 2, "learning_rate": 0.1, "warmup_epochs": 2}, "warmup_epochs 2"),
        ({"epochs": 1}, "learning_rate: field required"),
    ],
)
def test_bad_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(rb.core.errors.TrainingError, match=message):
        rb.Training(**fields)


def images(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (images(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))}, "training data: is empty"),
        ({"data": []}, "training data: is empty"),
        ({"data": (images(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64))}, "4 images but 3 labels"),
        ({"data": (images(40, 1, 8, 8), torch.zeros(40))}, "one whole number for each image"),
        ({"data": few(21)}, "19 images, fewer than one batch of 20"),
        ({"data": few(30), "validation": 0.01}, "validation: .* 30 images"),
        ({"validation": 1.5}, "fraction between 0 and 1"),
        ({"validation": None, "training": but(patience=1)}, "patience: is 1, which needs validation"),
        ({"validation": None, "training": but(keep="best")}, "keep: is .best., which needs validation"),
        ({"data": (few()[0], few()[1] + 1)}, r"is 10, but the network has 10 classes.*one output for each class"),
        ({"data": (few()[0], few()[1] - 1)}, "label of image"),
        ({"data": few()[0]}, "has no labels.*teacher"),
        ({"data": (images(40, 3, 8, 8), torch.zeros(40, dtype=torch.int64))}, "cannot run on images of shape"),
        ({"data": (images(40, 1, 8, 8).byte(), torch.zeros(40, dtype=torch.int64))}, "convert to float"),
        ({"data": (images(40, 1, 8, 8) / 0, torch.zeros(40, dtype=torch.int64))}, "image 0 holds NaN"),
        ({"model": nn.Flatten()}, "leaves no parameter to train"),
        ({"model": nn.Conv2d(1, 10, 3)}, "fit no task of a network with outputs \\[10, 6, 6\\]"),
        ({"model": "resnet"}, "is a str"),
        ({"model": small().double()}, r"model: .* is of type torch.float64, .*model.float\(\)"),
        ({"teacher": small().half()}, r"teacher: .* is of type torch.float16"),
        ({"loss": "mse"}, "loss: is 'mse'"),
        ({"loss": lambda *_: None}, "loss: returns a NoneType"),
        ({"penalty": lambda _: torch.zeros(2)}, r"penalty: returns a tensor of shape \[2\]"),
        ({"task": ""}, "task: is ''"),
        ({"workers": -1}, "workers: is -1"),
        ({"training": {"epochs": 1}}, "training: is a dict"),
        ({"parameters": lambda name: False}, "parameters: leaves no parameter.*0.weight"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 9))}, "teacher for the same classes"),
        ({"training": but(precision="bf16-mixed"), "accelerator": "cpu"}, "precision: is .bf16-mixed."),
        ({"accelerator": "abacus"}, "accelerator: is .abacus."),
        ({"accelerator": "cpu", "devices": 3}, "batch_size: is 20.* 3 processes"),
    ],
)
def test_refused_before_any_work(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": small(), "data": few(), "training": SETTINGS}
    with pytest.raises(rb.RheobaseError, match=message):
        rb.train(**{**arguments, **change})


if __name__ == "__main__":  # what the tests start as processes of their own
    torch.set_num_threads(1)
    if sys.argv[1] == "kill":
        rb.train(small(), few(), SETTINGS, folder=sys.argv[2], penalty=Stop(2 * 4 + 2, pause=100))
    elif sys.argv[1] == "statistics":
        exact = but(epochs=1, augment=None, exact_statistics=True)
        model, folder = normalised("modules"), sys.argv[2]
        rb.train(model, few(80), exact, validation=None, folder=folder, accelerator="cpu", devices=2)
    else:
        rb.train(small(normalised=False), few(), but(epochs=3), folder=sys.argv[2], accelerator="cpu", devices=2)


# Dropout of quantised networks


class Dropping(nn.Module):
    """Dropout of the input, of channels, of values, and of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.channels = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.3)
        self.hidden, self.second, self.values = nn.Linear(6 * 64, 40), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.last = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, 0.1, training=self.training)
        x = self.channels(self.first(self.conv(x))).flatten(1)
        return nn.functional.dropout(self.last(self.values(self.second(self.hidden(x)))), 0.2, self.training)


class DroppingTokens(nn.Module):
    """Dropout of whole tokens [B, N, C], whose channels are moved to axis 1 at the site."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.tokens, self.last = (
            nn.Conv2d(1, 6, 2, 2),
            nn.ReLU(),
            nn.Dropout1d(0.4),
            nn.Linear(6, 10),
        )
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.tokens(self.first(self.mix(self.embed(x).flatten(2).transpose(1, 2)))).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("build", [Dropping, DroppingTokens])
def test_dropout_of_a_quantised_network_is_that_of_its_module(build: type[Any]) -> None:
    torch.manual_seed(0)
    net, images = build().eval(), torch.rand(32, 1, 8, 8)
    quantised = rb.quantise(net, rb.Pascal(levels=4), calibration=images)
    for name in ("first", "second")[: 2 if build is Dropping else 1]:
        setattr(net, name, copy.deepcopy(getattr(quantised, name)))
    for training in (False, True):
        outputs = []
        for network in (net, quantised):
            torch.manual_seed(1)
            outputs.append(network.train(training)(images))
        torch.testing.assert_close(*outputs)
    assert not torch.equal(quantised(images), quantised(images))
    again = rb.quantise(quantised.eval(), rb.Pascal(levels=2), calibration=images)
    assert again.dropout == quantised.dropout
    snn = rb.convert(quantised, rb.Pascal())
    assert snn.train()(images).equal(snn(images))
    torch.testing.assert_close(snn(images), quantised.eval()(images))


@pytest.mark.slow
def test_a_run_does_not_continue_with_another_dropout(tmp_path: Path) -> None:
    net, (images, labels) = Dropping().eval(), few(40)
    for p in (0.5, 0.2):
        net.values.p = p
        quantised = rb.quantise(net, rb.Pascal(levels=4), calibration=images)
        if p == 0.5:
            rb.train(quantised, (images, labels), but(epochs=1, augment=None), folder=tmp_path / "run")
    with pytest.raises(rb.core.errors.TrainingError, match="dropout was"):
        rb.train(quantised, (images, labels), but(epochs=1, augment=None), folder=tmp_path / "run")


def test_dropout_of_a_value_that_is_read_elsewhere_is_noted() -> None:
    class Both(Dropping):
        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.hidden(self.first(self.conv(x)).flatten(1)))
            return self.last(x + self.values(x))

    images = torch.rand(32, 1, 8, 8)
    quantised = rb.quantise(Both().eval(), rb.Pascal(levels=4), calibration=images)
    assert any(note.startswith("values (Dropout): dropout: its input is read elsewhere") for note in quantised.notes)
    assert quantised.train()(images).equal(quantised(images))
