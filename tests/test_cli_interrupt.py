"""Ctrl-C ends every command with one sentence and exit code 130, at any moment: also in imports and in libraries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SOURCE = """
import os, signal
import torch
from torch import nn

def press():
    os.kill(os.getpid(), signal.SIGINT)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

def few(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(60, 1, 8, 8, generator=generator), torch.arange(60) % 3

def test():
    return few(1)

def pressed():
    press()

def wrapped():  # as C extensions do
    try:
        press()
    except KeyboardInterrupt:
        raise ImportError("initialisation failed")

def without_the_first():
    press()
    raise RuntimeError("connection closed by peer")

def twice():
    try:
        press()
    except KeyboardInterrupt:
        press()

class Closing:
    def __del__(self):
        press()

def in_a_destructor():
    closing = Closing()
    del closing
    return net()
"""

AT_IMPORT = """
import os, signal, sys
from rheobase.__main__ import main

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
main()
"""

CONVERT = ["--data", "nets:few", "--out", "snn", "--timesteps", "2"]
COMPARE = ["compare", "nets:net", "--data", "nets:few", "--test", "nets:test", "--out", "out", "--methods"]
AGAIN, GOES_ON = "Repeat the command to start again.", "Repeat the command to continue; what is finished is kept."
EARLY = "Repeat the command."


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path


def start(home: Path, *command: str, **how: int) -> subprocess.Popen[str]:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell starts what runs in the background with SIGINT ignored, which a process hands on
    streams["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, *command], cwd=home, **streams, **how)  # type: ignore[call-overload, no-any-return]


def assert_interrupted(process: subprocess.Popen[str], said: str) -> None:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1] == f"Interrupted. {said}"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["typer", "rich", "torch", "numpy", "rheobase.cli.convert", "rheobase.graph"])
def test_while_packages_are_imported(home: Path, module: str) -> None:
    process = start(home, "-c", AT_IMPORT.format(module=module), "convert", "nets:net", *CONVERT)
    assert_interrupted(process, EARLY)
    assert not (home / "snn").exists()


@pytest.mark.slow
def test_while_a_command_imports_what_it_needs(home: Path) -> None:
    process = start(home, "-c", AT_IMPORT.format(module="matplotlib"), *COMPARE, "OPI", "--timesteps", "1")
    assert_interrupted(process, EARLY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "said"),
    [("pressed", AGAIN), ("wrapped", AGAIN), ("twice", EARLY), ("in_a_destructor", EARLY)],
)
def test_where_libraries_see_it_first(home: Path, function: str, said: str) -> None:
    assert_interrupted(start(home, "-m", "rheobase", "convert", f"nets:{function}", *CONVERT), said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["convert", "nets:net", *CONVERT], AGAIN),
        (
            [
                "train",
                "nets:net",
                *CONVERT[:2],
                "--out",
                "run",
                "--option",
                "levels=4",
                "--batch-size",
                "16",
                "--epochs",
                "99999",
            ],
            GOES_ON,
        ),
        (["demo", "--out", "demo"], AGAIN),
    ],
)
@pytest.mark.parametrize("after", [0.5, 3.0])
def test_at_some_moment(home: Path, command: list[str], said: str, after: float) -> None:
    process = start(home, "-m", "rheobase", *command)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    assert process.returncode in (130, 0, -signal.SIGINT)  # else it had finished, or Python was shutting down
    if process.returncode == 130:
        assert err.splitlines()[-1] in (f"Interrupted. {said}", f"Interrupted. {EARLY}")
    assert not (home / "demo").exists()


@pytest.mark.slow
def test_a_comparison_of_several_processes_continues(home: Path) -> None:
    """Ctrl-C reaches all processes of a terminal; one says it, and the repeated command has every cell."""
    command = ["-m", "rheobase", *COMPARE, "OPI,RateCoding,FTBC", "--timesteps", "1,2,4", "--seeds", "0,1,2,3"]
    first = start(home, *command, "--workers", "2", process_group=0)
    results = home / "out" / "results.jsonl"
    while not (results.exists() and len(results.read_text().splitlines()) > 2):
        assert first.poll() is None
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    assert_interrupted(first, GOES_ON)
    kept = results.read_text().splitlines()
    again = start(home, *command, "--json")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert len(json.loads(out)["cells"]) == 36
    assert results.read_text().splitlines()[: len(kept)] == kept


@pytest.mark.slow
def test_the_other_processes_of_a_distributed_run_wait_for_the_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They continue after Ctrl-C, and say nothing when the first one is gone."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    process = start(home, "-m", "rheobase", "convert", "nets:without_the_first", *CONVERT)
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == 130
