"""Files that grow by a line for each result: after a kill in the middle of a line, the run continues."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reproduce

from rheobase.core.lines import append_line, read_lines

ROOT = Path(__file__).parent.parent


def test_an_incomplete_last_line_is_not_read_and_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    assert read_lines(file) == []
    append_line(file, b"one")
    append_line(file, b"")
    with file.open("ab") as stream:
        stream.write(b'{"tw')
    assert read_lines(file) == [b"one", b""]
    append_line(file, b"two")
    assert file.read_bytes() == b"one\n\ntwo\n"
    file.write_bytes(b"hal")
    append_line(file, "θ".encode())
    assert read_lines(file) == ["θ".encode()]


def zoo_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], Any], Callable[[], Any]]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    zoo = importlib.import_module("zoo")
    file = folder / "zoo.jsonl"
    names = iter("abc")
    return (
        file,
        lambda: zoo.add({"package": "p", "name": next(names), "outcome": "exact"}, file),
        lambda: list(zoo.read_rows(file)),
    )


def paper_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], Any], Callable[[], Any]]:
    monkeypatch.setattr(reproduce.Study, "measure", lambda *_: {"accuracy": 1.0})
    study = reproduce.Study("qvm", folder, {}, {}, True, "cpu")
    entry = study.paper.entries["table-5"]

    def found() -> list[Any]:
        lines = [study.found(entry, row, entry.columns[0]) for row in entry.rows]
        return [numbers for numbers in lines if numbers]

    return study.file, lambda: study.run("table-5"), found


@pytest.mark.parametrize("benchmark", [zoo_rows, paper_numbers])
def test_a_killed_benchmark_continues(
    benchmark: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run, found = benchmark(tmp_path, monkeypatch)
    run()
    before = found()
    assert before
    *whole, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(whole) + last[:20])
    assert len(found()) == len(before) - 1
    run()
    assert len(found()) == len(before)
    assert all(json.loads(line) for line in file.read_text().splitlines())
