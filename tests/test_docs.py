"""Every example in the README, the docs and the docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rheobase

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"nir.md": "nir"}  # packages of an extra
MODULES = ["rheobase", *(m.name for m in pkgutil.walk_packages(rheobase.__path__, "rheobase."))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}  # a page is read from top to bottom: later examples go on from earlier ones
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines(page: Path, tmp_path: Path) -> None:
    lines = [line for code in blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if line.startswith("rheobase ")]
    if commands:
        quick = "from rheobase.cli.demo import run_demo; run_demo('rheobase-demo', epochs=2, comparison=False)"
        subprocess.run([sys.executable, "-c", quick], cwd=tmp_path, check=True, capture_output=True)
    for command in commands:
        argv = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Links between pages lead to a file, and to a heading that is there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{target}#{anchor}"


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"<!-- tests -->\n```sh\n(.*?)\n```", readme)
    assert command.endswith("-m pytest")
    extract = re.search(r"\$\((sed .*?README\.md)\)", (ROOT / ".ci" / "run").read_text())
    assert extract is not None
    found = subprocess.run(["bash", "-c", extract[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == command
