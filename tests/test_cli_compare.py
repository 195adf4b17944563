"""``rheobase compare``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rheobase as rb
from command_line import Run, assert_refused
from rheobase.exchange import checkpoints as models
from rheobase.zoo.digits import digits
from test_compare import part

SOURCE = """
import torch
from torch import nn
from rheobase.zoo.digits import digits

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def few(part):
    images, labels = getattr(digits(), part)
    return images[:60], labels[:60]

def train():
    return few("train")

def validation():
    return few("validation")

def test():
    return few("test")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "compare_nets.py").write_text(SOURCE)
    (folder / "training.yaml").write_text("epochs: 1\nbatch_size: 20\n")
    (folder / "recipes.yaml").write_text("plain: {method: OPI}\nlow: {method: OPI, percentile: 90}\n")
    (folder / "wrong.yaml").write_text("plain: {method: OPI, percent: 90}\n")
    (folder / "list.yaml").write_text("- {method: OPI}\n")
    pixels = {name: (getattr(digits(), name)[0][:50] * 16).byte().numpy()[:, 0] for name in ("train", "test")}
    classes = {name: getattr(digits(), name)[1][:50].numpy() for name in ("train", "test")}
    arrays = {f"{kind}_{name}": value[name] for kind, value in (("x", pixels), ("y", classes)) for name in pixels}
    np.savez(folder / "digits.npz", **arrays)
    torch.manual_seed(3)
    save_file(small().state_dict(), folder / "weights.safetensors")
    return folder


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def comparison(out: Path, *more: object) -> list[object]:
    data = ["--data", "compare_nets:train", "--test", "compare_nets:test", "--num-calibration-images", 40]
    return ["compare", "compare_nets:small", *data, "--timesteps", "1,4", "--out", out, *more]


@pytest.mark.slow
def test_json_and_report(run: Run, tmp_path: Path) -> None:
    options = ["--methods", "OPI,Pascal", "--seeds", "0,1", "--training", "training.yaml", "--json"]
    budget = ["--validation", "compare_nets:validation", "--budget", "latency=4", "--budget", "energy=9"]
    result = run(*comparison(tmp_path / "out", *options, *budget))
    assert result.code == 0, result.err
    document = result.document
    assert document["folder"] == str(tmp_path / "out")
    assert [(e["method"], e["timesteps"], e["seeds"]) for e in document["entries"]] == [
        ("OPI", 1, 2),
        ("OPI", 4, 2),
        ("Pascal", 1, 2),
        ("Pascal", 4, 2),
    ]
    assert document["choice"]["budget"] == {"latency": 4.0, "energy": 9.0}
    assert document["about"]["network"] == "small"
    page = (tmp_path / "out" / "report.html").read_text()
    assert document["choice"]["reason"].split(":")[0] in page
    network = models.load("compare_nets:small")
    same = rb.compare(network, [rb.OPI()], part("train"), part("test"), (1, 4), num_calibration_images=40, seeds=(0, 1))
    for entry, expected in zip(document["entries"], same.to_json()["entries"], strict=False):
        assert entry["logit_error"] == pytest.approx(expected["logit_error"])


@pytest.mark.slow
def test_early_exit(run: Run, tmp_path: Path) -> None:
    options = ["--methods", "OPI", "--validation", "compare_nets:validation", "--early-exit", "--json"]
    result = run(*comparison(tmp_path / "out", *options))
    assert result.code == 0, result.err
    assert 1 <= result.document["entries"][1]["exit_timesteps"]["mean"] <= 4
    refused = run(*comparison(tmp_path / "out", "--methods", "OPI", "--early-exit"))
    assert_refused(refused, "--early-exit", "--validation")


@pytest.mark.slow
def test_files_recipes_and_going_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data", "digits.npz", "--folder", "train", "--test-folder", "test", "--scale", 16]
    command = ["compare", "compare_nets:small", "--checkpoint", "weights.safetensors", *data]
    command += ["--recipes", "recipes.yaml", "--timesteps", 2, "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", ["rheobase", *map(str, command)])
    first = run(*command)
    assert first.code == 0, first.err
    assert "plain" in first.out
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in first.out
    lines = (tmp_path / "out" / "results.jsonl").read_text()
    assert [json.loads(line)["recipe"]["calibration"][0]["percentile"] for line in lines.splitlines()] == [99.9, 90.0]
    assert "<pre>rheobase compare compare_nets:small" in (tmp_path / "out" / "report.html").read_text()
    assert run(*command).out == first.out
    assert (tmp_path / "out" / "results.jsonl").read_text() == lines
    assert run(*command, "--number").code == 0
    assert (tmp_path / "out-2" / "report.html").exists()
    assert run(*command, "--overwrite", "--seeds", 5).code == 0
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {method: OPI}\na: {method: RateCoding}\n", "'a' is given twice"),
        ("1: {method: OPI}\n", "is not a mapping of recipes by name"),
        ("a: {method: [OPI]}\n", "a: method: ['OPI'] is unknown"),
        ("a: {method: OPI, 3: 4}\n", "a: recipe: is not a mapping of fields"),
        ("a: [b\n", "is not YAML"),
    ],
)
def test_recipe_files_that_are_wrong(run: Run, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    result = run(*comparison(tmp_path / "out", "--recipes", tmp_path / "wrong.yaml"))
    assert result.code == 1
    assert said in result.err


@pytest.mark.slow
def test_a_saved_network_is_compared_anew(run: Run, tmp_path: Path) -> None:
    network = small()
    rb.save(rb.convert(network, rb.OPI(timesteps=2), calibration=part("train")), tmp_path / "saved")
    command = comparison(tmp_path / "out", "--methods", "OPI,RTS")
    command[1] = tmp_path / "saved"
    result = run(*command)
    assert result.code == 0, result.err
    expected = rb.compare(network, [rb.OPI(), rb.RTS()], part("train"), part("test"), (1, 4), num_calibration_images=40)
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    found = [json.loads(line)["test"]["accuracy"] for line in lines]
    assert found == [cell.test.accuracy for cell in expected.cells if cell.test is not None]
    assert_refused(run(*command, "--checkpoint", "weights.safetensors"), "--checkpoint: has no effect on")


def test_what_did_not_run_is_said(run: Run, tmp_path: Path) -> None:
    result = run(*comparison(tmp_path / "out", "--methods", "QVM,OPI"))
    assert result.code == 0
    assert "Did not run:\n  - QVM (every T): needs a quantised network" in result.out


@pytest.mark.slow
def test_a_budget_of_bits_and_counted_products(run: Run, tmp_path: Path) -> None:
    (tmp_path / "graded.yaml").write_text(
        "one: {method: MultiThreshold, magnitude: 1}\nfour: {method: MultiThreshold, magnitude: 4}\n"
    )
    command = comparison(tmp_path / "out", "--recipes", tmp_path / "graded.yaml", "--graded-spikes", "products")
    budget = ["--validation", "compare_nets:validation", "--budget", "bits=2"]
    command += budget
    document = run(*command, "--json").document
    assert document["choice"]["method"] == "one"
    assert [entry["alphabet"]["values"] for entry in document["entries"][::2]] == [[-1, 0, 1], [-4, -2, -1, 0, 1, 2, 4]]
    assert document["about"]["identity"]["graded_spikes"] == "products"
    shown = run(*command).out
    assert "│ {0, ±1, ±2, ±4} │" in shown
    assert_refused(run(*command, "--graded-spikes", "additions"), "graded_spikes: products then, additions now")


def conversion(out: Path, *more: object) -> list[object]:
    return ["convert", "compare_nets:small", "--data", "compare_nets:train", "--out", out, *more]


@pytest.mark.slow
def test_convert_within_a_budget(run: Run, tmp_path: Path) -> None:
    options = ["--budget", "latency=2", "--budget", "bits=2.4", "--option", "iterations=0"]
    document = run(*conversion(tmp_path / "snn", *options, "--json")).document
    network = rb.load(tmp_path / "snn")
    assert (network.recipe["name"], network.timesteps) == ("Graded", document["budget"]["choice"]["timesteps"])
    assert len(document["budget"]["rows"]) == 4
    assert document["alphabet"]["values"] == list(network.alphabet.values)
    assert any(note.startswith("budget: Graded, m = ") for note in network.provenance.notes)
    text = run(*conversion(tmp_path / "one", *options, "--timesteps", 1, "--method", "Graded")).out
    assert "Graded, m = 2" in text
    assert "chosen" in text
    assert "converted with Graded for T = 1, alphabet {-" in text
    assert "alphabet {-" in run("inspect", tmp_path / "one").out
    assert "Alphabet {-" in run("cost", tmp_path / "one", "--data", "compare_nets:test").out
    products = run("cost", tmp_path / "one", "--data", "compare_nets:test", "--graded-spikes", "products", "--json")
    assert products.document["energy"]["graded_spikes"] == "products"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "latency=0.5", "--option", "iterations=0"], ["the nearest is Graded, m = 1 at T = 1"]),
        (["--budget", "energy=5e-9", "--budget", "latency=4", "--timesteps", "0"], ["timesteps"]),
        (["--option", "timesteps=0"], ["timesteps"]),
        (["--budget", "speed=1"], ["budget: has the unknown field 'speed'"]),
        (["--budget", "bits=2", "--option", "magnitude=4"], ["--option magnitude: is given twice"]),
        (["--budget", "bits=2", "--recipe", "recipes.yaml"], ["--recipe: has a T and a magnitude"]),
        (["--budget", "bits=2", "--method", "FTBC"], ["FTBC: unknown field 'magnitude'"]),
        (["--graded-spikes", "products"], ["--graded-spikes: has no effect without --budget"]),
    ],
)
def test_refusals_of_a_budget(run: Run, tmp_path: Path, options: list[object], said: list[str]) -> None:
    assert_refused(run(*conversion(tmp_path / "out", *options)), *said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "FTCB"], ["'FTCB' is unknown", "FTBC"]),
        (["--methods", "OPI,OPI"], ["recipes: contains 'OPI' twice"]),
        (["--methods", "OPI", "--recipes", "recipes.yaml"], ["cannot be combined"]),
        (["--recipes", "none.yaml"], ["none.yaml: cannot be read"]),
        (["--recipes", "list.yaml"], ["is not a mapping of recipes by name"]),
        (["--recipes", "wrong.yaml"], ["wrong.yaml: plain: OPI: unknown field 'percent'"]),
        (["--budget", "latency=4"], ["validation images: are missing"]),
        (["--budget", "latency=none"], ["budget latency: is 'none'"]),
        (["--budget", "latency=1", "--budget", "latency=2"], ["--budget latency: is given twice"]),
        (["--timesteps", "1,x"], ["--timesteps"]),
        (["--timesteps", "0"], ["timesteps: is 0"]),
        (["--overwrite", "--number"], ["--overwrite: cannot be combined with --number"]),
        (["--methods", "OPI", "--training", "training.yaml"], ["training: has no effect"]),
        (["--workers", "2", "--dask", "tcp://127.0.0.1:1"], ["--workers: has no effect with --dask"]),
        (["--dask", "nonsense://"], ["Dask scheduler nonsense://: cannot be reached"]),
        (["--validation", "compare_nets:test"], ["test images: 60 of 60 occur among the validation images"]),
    ],
)
def test_refusals(run: Run, tmp_path: Path, options: list[object], said: list[str]) -> None:
    assert_refused(run(*comparison(tmp_path / "out", *options)), *said)
    assert not (tmp_path / "out").exists()


def test_no_test_images(run: Run, tmp_path: Path) -> None:
    command = ["compare", "compare_nets:small", "--data", "compare_nets:train", "--out", tmp_path / "out"]
    assert_refused(run(*command), "--test: is missing")
    assert_refused(run(*command, "--test", "compare_nets:train"), "names the calibration images")


@pytest.mark.slow
def test_other_results_are_not_mixed(run: Run, tmp_path: Path) -> None:
    assert run(*comparison(tmp_path / "out", "--methods", "OPI")).code == 0
    other = run(*comparison(tmp_path / "out", "--methods", "OPI", "--checkpoint", "weights.safetensors"))
    assert_refused(other, "results of another comparison", "the network", "--overwrite")
