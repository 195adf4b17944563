"""Several processes at work in one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

import rheobase as rb
from rheobase.comparison.folder import open_folder
from rheobase.comparison.results_file import Results, read
from rheobase.comparison.runner import Runner
from rheobase.core.errors import StoreError
from test_compare import TRAINING, compared

HERE = Path(__file__).parent


def patiently(predicate: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 300
    while not predicate():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the other process has ended"
        time.sleep(0.01)


def logged(home: Path, who: str, pause: float = 0.0) -> Any:
    """``Runner._measure`` that keeps a record of what is run by whom, and takes its time."""
    measure = Runner._measure

    def measured(self: Runner, recipe: rb.Recipe, timesteps: int, seed: int) -> dict[str, Any]:
        with (home / "log").open("a") as file:
            file.write(f"{who} {recipe.name} {timesteps} {seed}\n")
        time.sleep(pause)
        return measure(self, recipe, timesteps, seed)

    return measured


def log(home: Path) -> list[str]:
    return (home / "log").read_text().splitlines() if (home / "log").exists() else []


@contextmanager
def other(home: Path, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, that starts when the file ``go`` is there."""
    script = f"""
import sys, time
from pathlib import Path
sys.path[:0] = {[str(HERE), *sys.path]!r}
from test_compare_shared import *
from test_compare import traced
from test_compare_shared import Runner
traced()
home = Path({str(home)!r})
(home / "ready").touch()
patiently((home / "go").exists)
{code}
"""
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        patiently((home / "ready").exists, process)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    # asked by both: OPI and what is trained; by one alone: RateCoding and FTBC
    code = """
Runner._measure = logged(home, "other", 0.1)
recipes = [rb.OPI(), rb.Pascal(), rb.FTBC(batch_size=32, batches=1)]
found = compared(home / "out", recipes=recipes, timesteps=(1, 2, 4), training=TRAINING)
assert [(c.method, c.timesteps, c.status) for c in found.cells] == [
    (m, t, "done") for m in ("OPI", "Pascal", "FTBC") for t in (1, 2, 4)
]
assert all(name in (home / "out/report.html").read_text() for name in ("OPI", "Pascal"))
"""
    with other(tmp_path, code) as process:
        (tmp_path / "go").touch()
        monkeypatch.setattr(Runner, "_measure", logged(tmp_path, "here", 0.1))
        recipes = [rb.OPI(), rb.RateCoding(), rb.Pascal(), rb.QVM()]
        found = compared(out, recipes=recipes, timesteps=(1, 2, 4), training=TRAINING)
        assert process.wait(300) == 0
    assert [(c.method, c.timesteps, c.status) for c in found.cells] == [
        (r.name, t, "done") for r in recipes for t in (1, 2, 4)
    ]
    ran = [line.split() for line in log(tmp_path)]
    assert {who for who, *_ in ran} == {"here", "other"}
    questions = [(method, t) for _, method, t, _ in ran]
    assert len(questions) == len(set(questions)) == 15  # nothing was run twice
    lines = read(out / "results.jsonl")
    assert sorted((c.method, str(c.timesteps)) for c in lines) == sorted(questions)
    # each holds what the other found, as it was written
    assert all(c in lines for c in found.cells)
    assert {path.name for path in (out / ".locks").iterdir()} == {"writing"}


@pytest.mark.slow
def test_what_a_killed_process_was_at_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies in the middle of a line: the line is left alone until then, and its cell is done over."""
    out = tmp_path / "out"
    file = out / "results.jsonl"
    code = """
def dies(results, cell):
    (home / "started").touch()
    patiently((home / "die").exists)
    with results.shared.writing():
        with results.path.open("a") as file:
            file.write(cell.model_dump_json()[:300])
        (home / "half").touch()
        time.sleep(600)
Runner._measure = logged(home, "other")
Results.add = dies
compared(home / "out", timesteps=(1,))
"""
    whole = compared(tmp_path / "whole", timesteps=(1,))
    seen: list[int] = []
    with other(tmp_path, code) as process:
        (tmp_path / "go").touch()
        patiently((tmp_path / "started").exists, process)
        with pytest.raises(StoreError, match="open in another process"):
            compared(out, on_existing="overwrite")
        measured = logged(tmp_path, "here")

        def kill() -> None:
            seen.append(file.stat().st_size)
            process.kill()

        def beside_a_dying_one(self: Runner, recipe: rb.Recipe, timesteps: int, seed: int) -> dict[str, Any]:
            if recipe.name == "RateCoding":
                (tmp_path / "die").touch()
                patiently((tmp_path / "half").exists, process)
                Timer(1.0, kill).start()  # by then the line of this cell waits for the file
            return measured(self, recipe, timesteps, seed)

        monkeypatch.setattr(Runner, "_measure", beside_a_dying_one)
        found = compared(out, timesteps=(1,))
        assert process.wait(60) == -signal.SIGKILL
    assert seen == [300]
    assert log(tmp_path) == ["other OPI 1 0", "here RateCoding 1 0", "here OPI 1 0"]
    assert read(file) == [found.cells[1], found.cells[0]]
    assert [cell.test for cell in found.cells] == [cell.test for cell in whole.cells]
    # once it is dead, nothing is in the way
    assert len(compared(out, timesteps=(1,), on_existing="overwrite").cells) == len(read(file)) == 2


def test_lines_that_come_meanwhile_are_checked(tmp_path: Path) -> None:
    cell = compared(recipes=[rb.OPI()], timesteps=(1,)).cells[0]
    with open_folder(tmp_path / "out", "keep") as here, open_folder(tmp_path / "out", "keep") as there:
        ours = Results(here, cell.identity)
        assert ours.find(cell.key) is None
        Results(there, cell.identity).add(cell)
        assert ours.find(cell.key) == cell
        foreign = cell.model_copy(update={"identity": cell.identity.model_copy(update={"num_calibration_images": 1})})
        with pytest.raises(StoreError, match="the number of calibration images"):
            Results(there, foreign.identity)
        with (tmp_path / "out" / "results.jsonl").open("a") as file:  # as of one that opened the empty folder with ours
            file.write(foreign.model_dump_json() + "\n")
        with pytest.raises(StoreError, match="the number of calibration images"):
            ours.add(cell)
        (tmp_path / "out" / "results.jsonl").write_text("")
        with pytest.raises(StoreError, match="has lost lines"):
            ours.find(cell.key)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with pytest.raises(StoreError, match=r"cannot be locked \(Function not implemented\).*local disk"):
        compared(tmp_path / "out", recipes=[rb.OPI()], timesteps=(1,))
