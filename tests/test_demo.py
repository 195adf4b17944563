from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rheobase as rb
from rheobase import cli
from rheobase.cli import demo
from rheobase.comparison.results_file import read
from rheobase.core.errors import StoreError
from rheobase.zoo import digits as digits_data
from tables import unpadded

FILES = {"network", "comparison", "accuracy.png", "summary.md", "results.json", "weights.safetensors"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two step counts and few images, for what does not depend on them."""
    parts = digits_data.digits()
    few = digits_data.Digits(*((images[:100], labels[:100]) for images, labels in parts))
    monkeypatch.setattr(demo, "digits", lambda: few)
    monkeypatch.setattr(demo, "TIMESTEPS", (1, 8))
    monkeypatch.setattr(demo, "COMPARED", (8,))
    monkeypatch.setattr(demo, "all_recipes", lambda: {"OPI": rb.OPI()})
    monkeypatch.setattr(demo, "TRAINING", None)


@pytest.mark.slow
def test_full_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COMPARED", (4,))  # of four, to save time
    assert demo.TRAINING is not None
    monkeypatch.setattr(demo, "TRAINING", demo.TRAINING.replace(epochs=1))  # of three
    with pytest.raises(SystemExit, match="0"):
        cli.app(["demo", "--out", str(tmp_path / "made")])
    printed = capsys.readouterr()
    assert "results are identical" in printed.out
    assert printed.err == ""
    folder = tmp_path / "made"
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    results = json.loads((folder / "results.json").read_text())
    rows = {row["timesteps"]: row for row in results["table"]["rows"]}
    assert list(rows) == [1, 2, 4, 8, 16, 32]
    assert results["ann"]["test_accuracy"] > 0.97
    # A conversion by thresholds alone: within two of 400 images at T = 32, and closer with every doubling.
    assert rows[32]["accuracy"] >= results["ann"]["test_accuracy"] - 2 / 400
    errors = [row["logit_error"] for row in rows.values()]
    assert errors == sorted(errors, reverse=True)
    assert "| 32 |" in unpadded((folder / "summary.md").read_text())
    assert {path.name for path in (folder / "comparison").iterdir()} >= {"report.html", "table.md", "results.jsonl"}
    cells = read(folder / "comparison" / "results.jsonl")
    assert {cell.method for cell in cells} == set(rb.comparison.all_recipes())
    assert {cell.status for cell in cells} == {"done"}
    assert "All methods: " in printed.out

    network = rb.load(folder / "network")
    images, labels = digits_data.digits_test()
    again = rb.evaluate(network, (images, labels), (8,))
    assert again.rows[0].accuracy == pytest.approx(rows[8]["accuracy"])


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_same_seed_same_numbers(tmp_path: Path) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, second, other = (
        demo.run_demo(tmp_path / name, epochs=2, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.table == second.table
    assert first.table != other.table
    for name in ("network/tensors.safetensors", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.app(["demo", "--out", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_existing_folder(tmp_path: Path) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    demo.run_demo(out, epochs=1)
    with pytest.raises(StoreError, match="already exists"):
        demo.run_demo(out, epochs=1)
    (out / "stale").touch()
    demo.run_demo(out, epochs=1, overwrite=True)
    assert {path.name for path in out.iterdir()} == FILES
    foreign.mkdir()
    with pytest.raises(StoreError, match="not written by `rheobase demo`"):
        demo.run_demo(foreign, overwrite=True)
    with pytest.raises(StoreError, match="cannot be written"):
        demo.run_demo(Path("/proc/demo"))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "accuracy_plot", broken)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path / "out", epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_parts_do_not_overlap() -> None:
    parts = digits_data.digits()
    assert [len(images) for images, _ in parts] == [1097, 300, 400]
    everything = torch.cat([images for images, _ in parts]).flatten(1)
    # load_digits holds no image twice, so each must be its own
    assert len(everything.unique(dim=0)) == 1797
    assert digits_data.digits_train()[0].max() == 1
