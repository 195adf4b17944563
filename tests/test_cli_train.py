"""``rheobase train``: from a trained network to a spiking one, through kills and past mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rheobase as rb
from command_line import Run, assert_refused
from rheobase.cli.settings import read_training
from rheobase.data import readers as data
from rheobase.training import checkpoint
from rheobase.zoo import digits as demo

SOURCE = """
import torch
from torch import nn
from torch.utils.data import DataLoader
from rheobase.zoo.digits import digits

def few():
    images, labels = digits().train
    return images[:120], labels[:120]

def many_classes():
    images, labels = few()
    return images, labels + 1

def no_labels():
    return DataLoader(few()[0], batch_size=50)

def small(classes=10):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, classes))

def unseeded():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def five_classes():
    return small(5)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "train_nets.py").write_text(SOURCE)
    parts = demo.digits()
    save_file(demo.train(parts.train, epochs=3, seed=0).state_dict(), folder / "weights.safetensors")
    images, labels = parts.train
    pixels = (images[:120] * 255).round().to(torch.uint8).numpy()
    np.savez(folder / "digits.npz", images=pixels, labels=labels[:120].numpy())
    return folder


def training(
    out: Path, *more: object, model: str = "train_nets:small", source: str = "train_nets:few", levels: int = 4
) -> list[object]:
    options = ["--option", f"levels={levels}", "--epochs", 2, "--batch-size", 20]
    return ["train", model, "--data", source, "--out", out, *options, *more]


def accuracies(document: Any) -> list[float]:
    return [row["accuracy"] for row in document["evaluation"]["rows"]]


# The good paths


@pytest.mark.slow
def test_from_a_trained_network_to_a_spiking_one(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    network = ["rheobase.zoo.digits:DigitsResNet", "--checkpoint", "weights.safetensors"]
    images = ["--data", "rheobase.zoo.digits:digits_train", "--test", "rheobase.zoo.digits:digits_test"]
    options = ["--method", "Pascal", "--option", "levels=4", "--epochs", 2, "--batch-size", 64, "--json"]
    result = run("train", *network, *images, *options, "--out", out)
    assert result.code == 0
    assert "repeat the command" in result.err
    document = result.document
    assert document["execution"] == "counts"
    assert [record["epoch"] for record in document["training"]["history"]] == [1, 2]
    assert document["training"]["settings"]["learning_rate"] == 0.02
    assert document["evaluation"]["ann_accuracy"] > 0.9
    row = document["evaluation"]["rows"][-1]
    assert (row["timesteps"], row["agreement"]) == (4, 1.0)  # PASCAL is exact
    assert {path.name for path in out.iterdir()} == {"run.json", "training", "network"}
    assert {path.name for path in (out / "network").iterdir()} >= {"network.json", "evaluation.json", "accuracy.png"}

    # The saved network is the trained one: its analog side is the quantised network with the final weights.
    parts = demo.digits()
    student = rb.quantise(demo.DigitsResNet(), rb.Pascal(levels=4), calibration=parts.train[0][:64])
    student.load_state_dict(load_file(out / "training" / "weights.safetensors"))
    expected = student.eval()(parts.test[0])
    found = rb.load(out / "network").ann(parts.test[0])
    # batch normalisation is folded in it: the last bit of a sum may tip a level, in an image of a hundred at most
    assert int((~torch.isclose(found, expected, rtol=1e-3, atol=1e-3)).any(1).sum()) <= len(expected) // 100

    steps = ["evaluate", out / "network", "--data", "rheobase.zoo.digits:digits_test", "--execution", "steps", "--json"]
    simulated = run(*steps).document
    assert simulated["execution"] == "steps"
    assert accuracies(simulated)[-1] == pytest.approx(accuracies(document)[-1], abs=0.0026)  # one image of 400


@pytest.mark.slow
def test_a_finished_run_is_told_and_kept(run: Run, tmp_path: Path) -> None:
    first = run(*training(tmp_path / "run"))
    assert first.code == 0
    assert "Training; the weights are those of epoch 2" in first.out
    assert "sites converted with Pascal" in first.out
    before = rb.load(tmp_path / "run" / "network")
    again = run(*training(tmp_path / "run"))
    assert again.code == 0
    assert "Continuing after epoch 2 of 2" in again.err
    images = demo.digits().test[0]
    assert torch.equal(rb.load(tmp_path / "run" / "network")(images), before(images))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_network(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, augmented = checkpoint.save, ["--augment", "crop=1,cutout=2"]

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        result = run(*training(tmp_path / "stopped", *augmented))
    assert (result.code, result.out, result.err.splitlines()[-1]) == (
        130,
        "",
        "Interrupted. Repeat the command to continue; what is finished is kept.",
    )
    assert not (tmp_path / "stopped" / "network").exists()
    (tmp_path / "stopped" / ".network-half").mkdir()  # what a kill while saving leaves behind
    resumed = run(*training(tmp_path / "stopped", *augmented))
    assert resumed.code == 0
    assert "Continuing after epoch 1 of 2" in resumed.err
    assert run(*training(tmp_path / "whole", *augmented)).code == 0
    one, other = (load_file(tmp_path / name / "training" / "weights.safetensors") for name in ("stopped", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    networks = [rb.load(tmp_path / name / "network") for name in ("stopped", "whole")]
    images = demo.digits().test[0]
    assert torch.equal(networks[0](images), networks[1](images))


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bits(run: Run, home: Path, tmp_path: Path) -> None:
    """The real command, by a signal that it cannot catch, in the middle of an epoch."""
    out, epochs = tmp_path / "killed", ["--epochs", 12, "--batch-size", 5, "--augment", "crop=1"]
    arguments = [*training(out)[:-4], *epochs]
    command = [sys.executable, "-m", "rheobase", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the tests have one thread, and rounding depends on it
    process = subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (out / "training" / checkpoint.CHECKPOINT_FILE).exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    found = checkpoint.load(out / "training")
    assert found is not None
    assert 1 <= len(found.history) < 12
    resumed = run(*arguments)
    assert resumed.code == 0
    assert f"Continuing after epoch {len(found.history)} of 12" in resumed.err
    assert run(*training(tmp_path / "whole")[:-4], *epochs).code == 0
    one, other = (load_file(tmp_path / name / "training" / "weights.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    files = [(tmp_path / name / "network" / "tensors.safetensors").read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_adaptive_levels_in_one_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the second stage, it goes on; levels, weights and network are those of the library's call."""
    out, test = tmp_path / "run", ["--test", "rheobase.zoo.digits:digits_test", "--json"]
    options = [
        "--adapt",
        "8,3",
        "--adapt-option",
        "num_calibration_images=60",
        "--plots",
        "--epochs",
        3,
        "--batch-size",
        20,
    ]
    command = [*training(out, levels=8)[:-4], *options, *test]
    save, saved = checkpoint.save, []

    def interrupted(folder: Path, *arguments: Any) -> None:
        save(folder, *arguments)
        saved.append(folder.name)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        assert run(*command).code == 130
    assert saved == ["uniform", "uniform"]
    result = run(*command)
    assert result.code == 0
    assert "Continuing after epoch 2 of 3" in result.err

    images, labels = (part[:120] for part in demo.digits().train)
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(16, 10))
    quantised = rb.quantise(network, rb.Pascal(levels=8), calibration=images)
    settings = rb.Training(epochs=3, learning_rate=0.02, batch_size=20)
    expected = rb.methods.adapt_levels(quantised, (images, labels), settings, levels=(8, 3), num_calibration_images=60)
    document = result.document
    assert document["adapted"]["levels"] == expected.levels
    assert sorted(expected.levels.values()) == [3, 8]
    assert document["adapted"]["metric"] == json.loads(json.dumps(expected.metric.to_json()))
    assert json.loads((out / "levels.json").read_text()) == document["adapted"]
    assert [record["epoch"] for record in document["training"]["history"]] == [1, 2, 3]
    weights = load_file(out / "training" / "adapted" / "weights.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in expected.model.state_dict().items())
    snn = rb.load(out / "network")
    assert {site.name: site.levels for site in snn.sites} == expected.levels
    assert document["evaluation"]["rows"][-1]["agreement"] == 1.0
    held = {"run.json", "training", "network", "levels.json", "metric.png", "alpha.png"}
    assert {path.name for path in out.iterdir()} == held

    said = "holds the checkpoint of another run: adapt"
    other = ["--adapt", "8,4", *options[2:]]
    assert_refused(run(*training(out, levels=8)[:-4], *other), said, "levels was [8, 3] and is now [8, 4]")
    assert_refused(run(*training(out, levels=8)), said, "is now None")
    again = run(*command[:-1])
    assert "Mean level 5.50, from epoch 3 on." in again.out


def test_pixels_from_files(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "training.yaml").write_text("epochs: 1\nbatch_size: 40\naugment: {crop_padding: 1, flip: false}\n")
    network = ["train_nets:small", "--data", "digits.npz"]
    options = ["--method", "QVM", "--option", "levels=4", "--training", tmp_path / "training.yaml", "--mean", 0.25]
    result = run("train", *network, *options, "--out", out, "--distil", "--validation", 0, "--json")
    assert result.code == 0
    settings = result.document["training"]["settings"]
    assert (settings["augment"]["mean"], settings["augment"]["std"]) == ([0.25], [1.0])
    assert result.document["training"]["history"][0]["validation_loss"] is None
    evaluated = run("evaluate", out / "network", "--data", "digits.npz", "--json")
    assert evaluated.document["preprocessing"]["mean"] == [0.25]
    assert evaluated.document["execution"] == "counts"


def test_a_plain_network_trains_as_by_the_library(run: Run, tmp_path: Path) -> None:
    out, options = tmp_path / "run", ["--plain", "--epochs", 2, "--batch-size", 20, "--learning-rate", 0.1]
    command = ["train", "train_nets:small(classes=10)", "--data", "train_nets:few", *options, "--out", out]
    result = run(*command, "--test", "rheobase.zoo.digits:digits_test", "--json")
    assert result.code == 0, result.err
    assert {path.name for path in out.iterdir()} == {"run.json", "training"}
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten()]
    few = tuple(part[:120] for part in demo.digits().train)
    settings = rb.Training(epochs=2, batch_size=20, learning_rate=0.1)
    trained = rb.train(nn.Sequential(*layers, nn.Linear(16, 10)), few, settings)
    weights = load_file(result.document["weights"])
    assert all(torch.equal(weights[name], value) for name, value in trained.model.state_dict().items())
    images, labels = demo.digits().test
    with torch.no_grad():
        right = (trained.model(images).argmax(1) == labels).float().mean()
    assert result.document["scores"] == {"accuracy": pytest.approx(float(right))}

    again = run(*command)
    assert "Continuing after epoch 2 of 2" in again.err
    assert "for --checkpoint" in again.out.splitlines()[-1]
    assert_refused(run(*training(out, "--epochs", 2)), "holds the checkpoint of another run")
    checkpoint = ["--checkpoint", out / "training" / "weights.safetensors"]
    converted = ["convert", "train_nets:small", *checkpoint, "--data", "train_nets:few", "--out", tmp_path / "snn"]
    assert run(*converted).code == 0


def test_the_seed_decides_on_the_first_weights(run: Run, tmp_path: Path) -> None:
    found = []
    for name, seed in (("one", 0), ("other", 0), ("third", 1)):
        command = ["train", "train_nets:unseeded", "--data", "train_nets:few", "--plain", "--epochs", 1, "--seed", seed]
        assert run(*command, "--batch-size", 20, "--out", tmp_path / name).code == 0
        found.append(load_file(tmp_path / name / "training" / "weights.safetensors")["1.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "FTBC"], "--method: has no effect with --plain"),
        (["--option", "levels=4"], "--option: has no effect"),
        (["--adapt", "8,4"], "--adapt: has no effect"),
        (["--max-pool", "gate"], "--max-pool: has no effect"),
        (["--execution", "steps"], "--execution: has no effect"),
        (["--distil"], "--distil: has no effect"),
        (["--test", "train_nets:no_labels"], "--test: has no labels"),
    ],
)
def test_options_that_plain_leaves_out(run: Run, tmp_path: Path, more: list[str], said: str) -> None:
    command = ["train", "train_nets:small", "--data", "train_nets:few", "--plain", "--epochs", 1, "--batch-size", 40]
    result = run(*command, "--out", tmp_path / "run", *more)
    assert_refused(result._replace(err=result.err.splitlines()[-1]), said)


def test_a_teacher_takes_the_place_of_labels(run: Run, tmp_path: Path) -> None:
    missing = run(*training(tmp_path / "run", source="train_nets:no_labels"))
    assert_refused(missing._replace(err=missing.err.splitlines()[-1]), "no labels", "teacher")
    assert run(*training(tmp_path / "run", "--distil", "--epochs", 1, source="train_nets:no_labels")).code == 0


# Settings


def test_settings_come_from_file_options_and_defaults(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text("epochs: 7\noptimiser: adamw\nschedule: constant\n")
    found = read_training(file, None, epochs=None, learning_rate=0.3)
    assert found == rb.Training(epochs=7, optimiser="adamw", schedule="constant", learning_rate=0.3)
    assert read_training(None, None) == rb.Training(epochs=4, learning_rate=0.02)


def test_augmentations_by_name() -> None:
    normalised = data.Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    found = read_training(None, normalised, augment="crop,flip,cutout,autoaugment").augment
    expected = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "cutout": 16, "autoaugment": "cifar10"}
    assert found == rb.training.Augmentation(crop_padding=4, flip=True, **expected)
    assert read_training(None, None, augment="cutout=8").augment == rb.training.Augmentation(
        crop_padding=0, flip=False, cutout=8
    )
    for text, areas in (("resized_crop,flip", (0.08, 1)), ("flip,resized_crop=0.25", (0.25, 1))):
        found = read_training(None, None, augment=text).augment
        assert found == rb.training.Augmentation(resized_crop=areas)
        assert rb.training.Augmentation.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 1\nspeed: 3\n", ["unknown field 'speed'", "known fields", "momentum"]),
        ("epochs: 0\n", ["epochs", "(got 0)"]),
        ("learning_rate: 1\n", ["--learning-rate", "training.yaml", "one place"]),
        ("augment: {crop: 4}\n", ["augment", "unknown field 'crop'", "crop_padding"]),
        ("augment: flip\n", ["augment", "'flip'"]),
        ("augment: {1: 2}\n", ["augment", "unknown field '1'", "crop_padding"]),
        ("- epochs\n", ["valid dictionary", "known fields: epochs"]),
        ("{", ["not YAML"]),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, said: list[str]) -> None:
    (tmp_path / "training.yaml").write_text(text)
    with pytest.raises(rb.core.errors.TrainingError) as refused:
        read_training(tmp_path / "training.yaml", None, learning_rate=0.1)
    for part in said:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "crop,crop", "turn", "flip=2", "cutout=wide", "autoaugment=mnist", "crop,resized_crop", "resized_crop=2"],
)
def test_augmentations_that_cannot_be(text: str) -> None:
    with pytest.raises(rb.core.errors.TrainingError, match="augment"):
        read_training(None, None, augment=text)


# What is refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--option", "levels=0"], ["given twice"]),
        (["--method", "RateCoding"], ["RateCoding", "levels"]),
        (["--training", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["--data", "nowhere.npz"], ["nowhere.npz", "does not exist"]),
        (["--test", "train_nets:few"], ["--test", "calibration images"]),
        (["--execution", "counts"], ["--execution", "--test"]),
        (["--mean", "0.5"], ["no effect", "train_nets:few"]),
        (["--option", "colour=red"], ["unknown field 'colour'"]),
        (["--adapt", "4,8"], ["levels: are (4, 8)", "descending"]),
        (["--adapt", "8,0"], ["levels: is 0"]),
        (["--adapt", "8;4"], ["--adapt: is '8;4'", "such as 8,4"]),
        (["--adapt-option", "share=0.5"], ["--adapt-option: has no effect without --adapt"]),
        (["--plots"], ["--plots: has no effect without --adapt"]),
        (["--adapt", "4,2", "--adapt-option", "colour=red"], ["'colour' is unknown", "moments"]),
        (["--adapt", "4,2", "--adapt-option", "share=1"], ["share: is 1", "between 0 and 1"]),
        (["--device", "abacus"], ["device: is 'abacus'"]),
        (["--device", "cuda:99"], ["device: is cuda:99, but"]),
    ],
)
def test_options_that_cannot_be(run: Run, tmp_path: Path, more: list[str], said: list[str]) -> None:
    assert_refused(run(*training(tmp_path / "run", *more)), *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_recipes_that_cannot_be(run: Run, tmp_path: Path) -> None:
    assert_refused(run(*training(tmp_path / "run", levels=0)), "levels", "(got 0)")
    network = ["train_nets:small", "--data", "train_nets:few", "--out", tmp_path / "run"]
    assert_refused(run("train", *network), "levels: are not given")
    result = run("train", *network, "--method", "RateCoding")
    assert_refused(result, "RateCoding has no quantised activation", "Pascal", "QVM")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data", "train_nets:many_classes"], ["label of image", "is 10", "10 classes"]),
        (["--validation", "1.5"], ["validation", "between 0 and 1"]),
        (["--batch-size", "500"], ["108 images", "batch of 500"]),
        (["--adapt", "4,3,2"], ["levels: are 3", "2 sites"]),
        (["--adapt", "4,2", "--adapt-option", "alpha=2"], ["alpha: is 2"]),
        (["--adapt", "4,2", "--adapt-option", "moments=bins"], ["moments: is 'bins'"]),
        (["--adapt", "4,2", "--adapt-option", "num_calibration_images=some"], ["num_calibration_images: is 'some'"]),
        (["--augment", "autoaugment,crop=99", "--validation", "0", "--training", "best.yaml"], ["keep", "validation"]),
    ],
)
def test_runs_that_cannot_be(run: Run, home: Path, tmp_path: Path, more: list[str], said: list[str]) -> None:
    (home / "best.yaml").write_text("keep: best\n")
    result = run(*training(tmp_path / "run", *more))
    assert result.out == ""
    assert_refused(result._replace(err=result.err.splitlines()[-1]), *said)
    files = [path.name for path in (tmp_path / "run").glob("*") if path.is_file()]
    assert files == ([] if "train_nets:many_classes" in more else ["run.json"])  # the first is refused by quantisation


@pytest.mark.slow
def test_labels_must_fit_the_head(run: Run, tmp_path: Path) -> None:
    result = run(*training(tmp_path / "run", model="train_nets:five_classes"))
    assert_refused(result._replace(err=result.err.splitlines()[-1]), "5 classes")
    assert run(*training(tmp_path / "run", levels=2)).code == 0  # what the refused run left stands in nobody's way


@pytest.mark.slow
def test_another_run_is_not_gone_on_with(run: Run, tmp_path: Path) -> None:
    assert run(*training(tmp_path / "run")).code == 0
    held = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert_refused(run(*training(tmp_path / "run", levels=8)), "another run", "levels was 4 and is now 8")
    other = run(*training(tmp_path / "run", "--seed", 1))
    assert_refused(other._replace(err=other.err.splitlines()[-1]), "another run", "seed was 0 and is now 1")
    assert all(path.read_bytes() == content for path, content in held.items())
    (tmp_path / "run" / "run.json").unlink()
    assert_refused(run(*training(tmp_path / "run")), "run.json", "choose another folder")


@pytest.mark.parametrize("place", [".", "network"])
def test_foreign_files_are_left_alone(run: Run, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "run" / place
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    assert_refused(run(*training(tmp_path / "run")), "thesis.tex", "another folder")
    assert (folder / "thesis.tex").exists()


def test_folders_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(run(*training(tmp_path / "file")), "file")
    assert_refused(run(*training(tmp_path / "file" / "run")), "cannot be written")


# Reading into memory


def test_samples_are_held_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = demo.digits_train()
    monkeypatch.setattr(demo, "digits_train", lambda: pair)
    found = data.read_all(data.load("rheobase.zoo.digits:digits_train"))
    assert isinstance(found, tuple)
    assert found[0].data_ptr() == pair[0].data_ptr()

    loader = data.load(home / "digits.npz", preprocessing=data.Preprocessing(mean=[0.5]), batch_size=50, seed=3)
    images, labels = data.read_all(loader)
    expected = list(loader)
    assert torch.equal(images, torch.cat([part for part, _ in expected]))
    assert torch.equal(labels, torch.cat([part for _, part in expected]))
    assert images.shape == (120, 1, 8, 8)
