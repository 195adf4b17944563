"""benchmarks/papers: every table and figure has what its run needs, and its run goes through."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import reproduce
from torch import nn

import rheobase as rb
from rheobase.core.errors import DataError, ModelError
from rheobase.graph import capture

ENTRIES = [(name, label) for name in reproduce.PAPERS for label in reproduce.paper(name).entries]
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


@pytest.mark.parametrize(
    ("name", "tables", "figures"),
    [("ftbc", 11, 4), ("qac", 8, 11), ("pascal", 10, 4), ("qvm", 5, 6), ("da_parallel", 4, 4)],
)
def test_all_tables_and_figures_are_there(name: str, tables: int, figures: int) -> None:
    """PASCAL's tables 9 and 11 to 13 are one entry; its tables end with 17."""
    expected = {f"table-{i}" for i in range(1, tables + 1)} | {f"figure-{i}" for i in range(1, figures + 1)}
    more = {f"table-{i}" for i in range(14, 18)} if name == "pascal" else set()
    assert set(reproduce.paper(name).entries) == expected | more


@pytest.mark.parametrize(("name", "label"), ENTRIES)
def test_every_entry_can_be_run(name: str, label: str) -> None:
    paper = reproduce.paper(name)
    entry = paper.entries[label]
    assert (entry.nothing_to_run is None) == bool(entry.rows)
    for row in entry.rows:
        assert row.network in paper.networks
        assert len(row.published) in (0, len(entry.heads)), row.name
        assert row.recipe is not None or entry.measure == "metric"
        if row.recipe is not None:
            assert rb.Recipe.from_dict(row.recipe).name
        if row.here is not None:
            assert any(number is not None for number in reproduce._here(row.here, entry)), row.name
    assert entry.measure in {*reproduce.MEASURES, "metric"}


@pytest.mark.slow
@pytest.mark.parametrize("name", reproduce.PAPERS)
def test_every_network_can_be_built_and_trained(name: str) -> None:
    study = reproduce.Study(name, Path(), {}, {}, False, "cpu")
    for network in study.paper.networks.values():
        assert (network.training is None) == (network.weights is not None)
        reproduce.products(network.model, 224 if network.data == "imagenet" else 32)  # runs on images of this size
        classes = CLASSES[network.data]
        assert (f"num_classes={classes}" in network.model) == (classes != 10)
        if network.recipe is not None:
            assert rb.Recipe.from_dict(network.recipe).activation is not None
        if network.training is not None:
            training = study.training(network)
            assert training.epochs == 300
            assert training.decayed == "all"
            assert training.augment is not None
            assert training.augment.mean == reproduce.DATA[network.data].preprocessing.mean


def test_numbers_of_this_repository_are_read_from_its_files() -> None:
    entry = reproduce.paper("ftbc").entries["table-7"]
    lines = (reproduce.BENCHMARKS / "comparison_resnet20.jsonl").read_text().splitlines()
    cells: list[Any] = [json.loads(line) for line in lines]
    mean = {
        t: 100 * fmean(c["test"]["accuracy"] for c in cells if (c["method"], c["timesteps"]) == ("FTBC", t))
        for t in (1, 2, 4, 8, 16, 32)
    }
    found = reproduce._here("comparison_resnet20.jsonl: FTBC", entry)
    assert found == [pytest.approx(89.12), *map(pytest.approx, mean.values()), None]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    reproduce.main([str(word) for word in words])
    return capsys.readouterr().out


def test_without_data_a_table_has_published_numbers_and_those_of_this_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "qvm", "table-5", "--out", tmp_path)
    assert "| ceil, V0 = θ    | published                           | 78.51 |    1.05 |    4.11 |   59.79 |" in out
    assert "here: of a ResNet-20" in out
    assert "yours" not in out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_list_has_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--list")
    assert all(f"| {label}" in out for _, label in ENTRIES)
    assert "CPU-hours" in out


@pytest.mark.slow
def test_a_smoke_test_is_not_computed_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(capsys, "qvm", "figure-5", "--smoke", "--out", tmp_path)
    assert first.count("yours, digits") == 9
    monkeypatch.setattr(reproduce.Study, "measure", lambda *_: pytest.fail("measured again"))
    assert run(capsys, "qvm", "figure-5", "--smoke", "--out", tmp_path) == first


@pytest.fixture
def each_network_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes most of a smoke test; test_graph.py tests it."""
    found: dict[int, Any] = {}

    def trace(model: nn.Module, *example: Any, **options: Any) -> Any:
        if id(model) not in found:
            found[id(model)] = model, capture(model, *example, **options)  # the model is kept, and so its id
        return copy.deepcopy(found[id(model)][1])

    monkeypatch.setattr(importlib.import_module("rheobase.methods._convert"), "capture", trace)


@pytest.mark.slow
@pytest.mark.usefixtures("each_network_traced_once")
@pytest.mark.parametrize("name", reproduce.PAPERS)
def test_the_run_of_every_entry_goes_through(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, name, "all", "--smoke", "--out", tmp_path)
    for label, entry in reproduce.paper(name).entries.items():
        assert f"{label}: {entry.title}" in out
        for row in entry.rows:
            assert f"{label}, {row.name}, " in out
    pictures = [entry for entry in reproduce.paper(name).entries.values() if entry.measure in ("steps", "distribution")]
    assert len(list((tmp_path / "smoke" / name).glob("*.png"))) >= len(pictures)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["qvm"], "name a paper and a table"),
        (["qvm", "table-9"], "qvm has no table-9; it has table-1, table-2"),
        (["qvm", "table-5", "--data", "mnist=x"], "mnist=x: write NAME=PATH, with one of cifar10, cifar100, imagenet"),
        (["qvm", "table-5", "--data", "cifar100"], "cifar100=: write NAME=PATH"),
        (["qvm", "table-5", "--weights", "resnet20=x"], "resnet20=x: write NAME=PATH"),
    ],
)
def test_words_that_cannot_be(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(words)
    assert said in capsys.readouterr().err


def test_missing_data_and_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ["--out", str(tmp_path)]
    with pytest.raises(
        DataError, match=r"cifar100: is needed\. Remedy: give --data cifar100=PATH \(its binary version"
    ):
        reproduce.main(["qvm", "table-5", "--data", "cifar10=x", *out])
    monkeypatch.setattr(reproduce.Study, "images", lambda *_: reproduce._few_digits())
    with pytest.raises(ModelError, match=r"give a checkpoint: --weights resnet18-relu=FILE \(torchvision's"):
        reproduce.main(["da_parallel", "figure-1", "--data", "imagenet=x", *out])


@pytest.mark.slow
def test_a_run_on_cifar_100_in_its_own_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with augmentation, measured, and with the weights of that training measured again."""
    folder, rng = tmp_path / "cifar-100-binary", np.random.default_rng(0)
    folder.mkdir()
    for name, number in (("train.bin", 120), ("test.bin", 30)):
        records = rng.integers(0, 256, (number, 3074), dtype=np.uint8)
        records[:, :2] = np.arange(number)[:, None] % [20, 100]
        records.tofile(folder / name)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class {i}" for i in range(100)))
    recipe = {"method": "QVM", "levels": 2, "initial_threshold": 1}
    training = {
        "epochs": 1,
        "learning_rate": 0.1,
        "batch_size": 60,
        "augment": {"autoaugment": "cifar10", "cutout": 16},
    }
    network = {"model": "rheobase.zoo:resnet20(num_classes=100, width=2)", "data": "cifar100", "recipe": recipe}
    rows = [{"name": "small", "network": "net", "recipe": {"method": "QVM"}, "published": [None, None, 50.0]}]
    small = {"title": "small", "networks": {"net": {**network, "training": training}}}
    found = reproduce.Paper.model_validate(
        {**small, "entries": {"table-1": {"title": "", "columns": [1, 2], "rows": rows}}}
    )
    monkeypatch.setattr(reproduce, "paper", lambda name: found)
    words = ["qvm", "table-1", "--data", f"cifar100={folder}", "--device", "cpu", "--out"]
    first = run(capsys, *words, tmp_path / "one")
    weights = tmp_path / "one" / "qvm" / "net" / "weights.safetensors"
    again = run(capsys, *words, tmp_path / "other", "--weights", f"net={weights}")
    assert first.splitlines()[-1] == again.splitlines()[-1]
    assert first.splitlines()[-1].startswith("| small | yours ")
