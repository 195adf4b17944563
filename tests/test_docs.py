"""Every example in the README, the docs and the docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rheobase
import stand_ins
from command_line import runner
from rheobase.zoo.digits import digits, train

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"nir.md": "nir"}  # packages of an extra
MODULES = ["rheobase", *(m.name for m in pkgutil.walk_packages(rheobase.__path__, "rheobase."))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def write_modules(page: Path) -> None:
    """Blocks that begin with the name of a file become that file, for ``module:function``."""
    for code in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            Path(named[1]).write_text(code)


def commands(page: Path) -> list[str]:
    lines = [line for code in blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("rheobase ")]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


def test_there_are_examples() -> None:
    """Patterns that match no block at all would leave the tests below empty."""
    assert WITH_PYTHON
    assert WITH_COMMANDS


@pytest.mark.slow
@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}  # a page is read from top to bottom: later examples go on from earlier ones
    if page.name == "data.md":
        stand_ins.install(monkeypatch)
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec", dont_inherit=True), names)


@pytest.fixture(scope="module")
def demo_weights() -> dict[str, torch.Tensor]:
    """Weights as `rheobase demo` leaves them for the commands of the pages, trained for two epochs."""
    return train(digits().train, epochs=2, seed=0).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_command_lines(
    page: Path,
    demo_weights: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process; test_cli.py has tests of the process."""
    monkeypatch.chdir(tmp_path)
    Path("rheobase-demo").mkdir()
    save_file(demo_weights, "rheobase-demo/weights.safetensors")
    stand_ins.install(monkeypatch)
    write_modules(page)
    run = runner(capsys)
    for command in commands(page):
        done = run(*shlex.split(command)[1:])
        assert done.code == 0, f"{command}\n{done.err}"


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


def test_the_readme_on_pypi_has_no_link_without_a_target() -> None:
    """`pyproject.toml` takes the picture and relative links out of it."""
    text = (ROOT / "README.md").read_text()
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    for substitution in hooks["fancy-pypi-readme"]["substitutions"]:
        changed = re.sub(substitution["pattern"], substitution["replacement"], text)
        assert changed != text
        text = changed
    assert re.findall(r"!\[|\]\((?!https?:)", text) == []
    assert "picture" not in text


def test_architecture_is_that_of_the_tree() -> None:
    """Its files exist; its rooms are the import linter's, in the same order."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    files = re.findall(r"`(\w+/[\w/]+\.py)`", page)
    assert files
    assert [file for file in files if not (Path(rheobase.__path__[0]) / file).is_file()] == []
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, flags=re.MULTILINE)
    assert [re.findall(r"\w+", room) for room in rooms] == [re.findall(r"\.(\w+)", layer) for layer in layers]


def test_paper_errors_names_tests_that_exist() -> None:
    """Each ``file::test`` is there; ``::test`` is in the file named before it."""
    named = re.findall(r"`(test_\w+\.py)?::(\w+)`", (ROOT / "docs" / "paper-errors.md").read_text())
    assert named
    file = ""
    for given, test in named:
        file = given or file
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


@pytest.mark.slow
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
