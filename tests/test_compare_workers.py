"""Comparisons in several processes and on a cluster: the same cells, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from torch import Tensor

import rheobase as rb
from rheobase.comparison import runner
from rheobase.comparison.engine import Engine, Lost, cluster
from rheobase.comparison.images import Images
from rheobase.comparison.results_file import read
from rheobase.core.errors import RecipeError, StoreError
from test_compare import TRAINING, compared, numbers, part

HERE = Path(__file__).parent
RECIPES = [rb.OPI(), rb.RateCoding(), rb.Pascal(), rb.QVM()]


@pytest.fixture(autouse=True)
def one_thread_and_no_workers_left() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def patiently(predicate: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 300
    while not predicate():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the other process has ended"
        time.sleep(0.05)


# The engine


def twice(shared: int, job: str) -> str:
    """The job, ``shared`` times; a job that names a file dies while the file is not there, "dies" always."""
    if job == "dies" or (job.startswith("/") and not os.path.exists(job)):
        if job != "dies":
            Path(job).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shared * job


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_job_a_second_attempt(tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    jobs = ["a", "b", once, "c", "dies", "d", "e"]
    found = dict(Engine(twice, 2, 2).run(jobs))
    lost = found.pop("dies")
    assert isinstance(lost, Lost)
    assert "its worker ended twice" in lost.reason
    assert found == {job: 2 * job for job in jobs if job != "dies"}


def test_one_worker_is_this_process() -> None:
    engine = Engine(lambda shared, job: (os.getpid(), shared + job), 1, None)
    seen = []
    for job, value in engine.run([1, 2]):
        seen.append((job, value, f"{engine.running}"))
    assert seen == [(1, (os.getpid(), 2), ""), (2, (os.getpid(), 3), "")]


@pytest.mark.slow
def test_what_cannot_be_sent_is_named() -> None:
    engine = Engine(twice, Unsendable(), 2)
    with pytest.raises(RecipeError, match=r"cannot be sent to other processes.*one worker"):
        list(engine.run(["a"]))


class Unsendable:
    def __reduce__(self) -> Any:
        raise AttributeError("Can't pickle it")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_for_other_processes(dtype: torch.dtype) -> None:
    images, labels = part("test")
    held = Images((images.to(dtype), labels))
    state = held.__getstate__()
    if dtype == torch.float32:
        assert state["_arrays"][0] is held.__getstate__()["_arrays"][0]  # joblib shares an object once
    other = Images.__new__(Images)
    other.__setstate__(state)
    assert all(map(torch.equal, other.first, held.first))


# Comparisons


@pytest.mark.slow
def test_workers_give_the_cells_of_one_process(tmp_path: Path) -> None:
    questions: dict[str, Any] = {"recipes": RECIPES, "timesteps": (1, 2), "training": TRAINING, "seeds": (0, 1)}
    alone = compared(**questions, workers=1)
    together = compared(tmp_path / "out", **questions, workers=2)
    assert {cell.status for cell in alone.cells} == {"done"}
    assert numbers(together.cells) == numbers(alone.cells)
    assert len(read(tmp_path / "out" / "results.jsonl")) == len(together.cells)
    trainings = [*(tmp_path / "out" / "training").iterdir()]
    assert len(trainings) == 4  # L = 1 and 2 for each seed, shared by Pascal and QVM
    assert compared(tmp_path / "out", **questions, workers=2).cells == together.cells


@pytest.mark.slow
def test_a_training_that_is_refused_or_fails() -> None:
    """As in one process: the first is a result, the second is tried again."""
    unlabelled: dict[str, Any] = {"recipes": [rb.Pascal()], "timesteps": (2,), "training": TRAINING}
    unlabelled["calibration"] = part("train")[0]
    alone, together = (compared(**unlabelled, workers=workers) for workers in (1, 2))
    assert [cell.status for cell in alone.cells] == ["refused"]
    assert numbers(together.cells) == numbers(alone.cells)
    diverging = TRAINING.model_copy(update={"learning_rate": 1e30})
    alone, together = (
        compared(recipes=[rb.Pascal()], timesteps=(2,), training=diverging, workers=workers) for workers in (1, 2)
    )
    assert [cell.status for cell in alone.cells] == ["failed"]
    assert numbers(together.cells) == numbers(alone.cells)


class Deadly(torch.utils.data.Dataset[Any]):
    """Test images; another process than the one that made them dies at image 30, unless the file is there."""

    def __init__(self, file: Path) -> None:
        self.images, self.labels = part("test")
        self.file, self.home = file, os.getpid()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i == 30 and os.getpid() != self.home and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images[i], self.labels[i]


@pytest.mark.slow
def test_a_worker_killed_in_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheobase.comparison.images.IN_MEMORY", 0)
    expected = compared(timesteps=(1, 2))
    found = compared(tmp_path / "out", timesteps=(1, 2), test=Deadly(tmp_path / "died"), workers=2)
    assert (tmp_path / "died").exists()
    assert numbers(found.cells) == numbers(expected.cells)


@pytest.mark.slow
def test_a_coordinator_that_is_killed_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"""
import sys, time
sys.path[:0] = {[str(HERE), *sys.path]!r}
from test_compare import *
compared({str(out)!r}, timesteps=(1, 2, 4, 8), seeds=(0, 1, 2), workers=2)
"""
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        patiently(lambda: (out / "results.jsonl").exists(), process)
        with pytest.raises(StoreError, match=r"is open in another process.*--workers"):
            compared(out)
    finally:
        process.kill()
        process.wait()
    before = read(out / "results.jsonl")
    assert 0 < len(before) < 24
    found = compared(out, timesteps=(1, 2, 4, 8), seeds=(0, 1, 2))
    assert all(cell in found.cells for cell in before)
    assert numbers(found.cells) == numbers(compared(timesteps=(1, 2, 4, 8), seeds=(0, 1, 2)).cells)


def test_a_process_with_other_versions_or_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(recipes=[rb.OPI()], timesteps=(2,))
    monkeypatch.setattr(runner, "versions", lambda: {**found.about.identity.versions, "torch": "1.0"})
    (cell,) = compared(recipes=[rb.OPI()], timesteps=(2,)).cells
    assert cell.status == "failed"
    assert cell.reason is not None
    assert "a worker has torch 1.0 (not " in cell.reason
    monkeypatch.undo()

    def nowhere(_: Images) -> None:
        raise FileNotFoundError("/data/test/0.png")

    monkeypatch.setattr(Images, "check_reachable", nowhere)
    (cell,) = compared(recipes=[rb.OPI()], timesteps=(2,)).cells
    assert cell.status == "failed"
    assert "a worker cannot read the data: FileNotFoundError: /data/test/0.png" in str(cell.reason)


# A cluster


@contextmanager
def dask_workers(number: int) -> Iterator[tuple[str, list[int]]]:
    """A scheduler and workers on this machine: its address, and the processes of the workers."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=number, threads_per_worker=1, dashboard_address=None, silence_logs=50, worker_dashboard_address=None
    ) as local:
        yield local.scheduler_address, [worker.pid for worker in local.workers.values()]


@pytest.mark.slow
def test_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, one of which is killed while it measures."""
    monkeypatch.setattr("rheobase.comparison.images.IN_MEMORY", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    questions: dict[str, Any] = {"recipes": [rb.OPI(), rb.Pascal()], "timesteps": (1, 2), "training": TRAINING}
    expected = compared(**questions)
    with dask_workers(2) as (address, _), cluster(address):
        assert joblib.Parallel().n_jobs != 1
        found = compared(tmp_path / "out", **questions, test=Deadly(tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert numbers(found.cells) == numbers(expected.cells)


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheobase.comparison.engine.CONNECTING", 1)
    with (
        pytest.raises(RecipeError, match=r"Dask scheduler tcp://127.0.0.1:1: cannot be reached.*dask scheduler"),
        cluster("tcp://127.0.0.1:1"),
    ):
        raise AssertionError
    with (
        pytest.raises(RecipeError, match=r"Dask scheduler nonsense://: cannot be reached"),
        cluster("nonsense://"),
    ):
        raise AssertionError


@pytest.mark.slow
def test_a_scheduler_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheobase.comparison.engine.CONNECTING", 2)
    with dask_workers(0) as (address, _), pytest.raises(RecipeError, match="has no workers"), cluster(address):
        raise AssertionError
