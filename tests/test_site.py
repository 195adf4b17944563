"""The documentation site: every public name has an entry in the reference, every page is in the navigation."""

from __future__ import annotations

import ast
import html
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rheobase

ROOT = Path(__file__).parent.parent
NAMESPACES = [name for name in rheobase.__all__ if isinstance(getattr(rheobase, name), ModuleType)]


def site_module(name: str) -> ModuleType:
    """A module of docs/_site, which MkDocs imports from its folder."""
    sys.path.insert(0, str(ROOT / "docs" / "_site"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return site_module("reference")


@pytest.mark.slow
@pytest.mark.parametrize("space", ["rheobase", *(f"rheobase.{name}" for name in NAMESPACES)])
def test_every_public_name_has_an_entry(space: str, reference: ModuleType) -> None:
    """The names that Python gives, against the pages, which are made without an import."""
    module = importlib.import_module(space)
    pages = reference.pages()
    entries = set(re.findall(r"^::: (\S+)", "".join(pages.values()), flags=re.MULTILINE))
    listed = re.findall(r"^\| \[?`([^`]+)`\]?(?:\[([^\]]+)\])?", pages[f"reference/{space}.md"], flags=re.MULTILINE)
    homes = {f"{space}.{name}": home for name, home in listed}
    public = getattr(module, "__all__", None) or [  # a namespace without it: what it defines or imports to export
        name for name in reference.public_names(space) if hasattr(module, name)
    ]
    assert public or space == "rheobase.core"
    for name in public:
        value = getattr(module, name)
        assert f"{space}.{name}" in homes, name
        if isinstance(value, ModuleType):
            continue
        home = homes[f"{space}.{name}"]
        assert home in entries, name
        owner, _, last = home.rpartition(".")
        assert getattr(importlib.import_module(owner), last) is value, f"{name} is not {home}"


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in config, page.name


def test_every_formula_of_a_docstring_is_parsed() -> None:
    pytest.importorskip("math_core")
    formulae = site_module("formulae")
    found, problems = 0, []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                blocks = re.findall(r"\.\. math::(.*?)(?:\n\n(?! )|\Z)", text, flags=re.DOTALL)
                for latex in [*blocks, *re.findall(r":math:`([^`]+)`", text)]:
                    found += 1
                    page = f'<span class="arithmatex">\\({html.escape(latex)}\\)</span>'
                    formulae.render(page, lambda problem, at=path: problems.append(f"{at}: {problem}"))
    assert found > 60
    assert not problems


def test_a_formula_that_cannot_be_parsed_is_reported_and_others_become_mathml() -> None:
    pytest.importorskip("math_core")
    problems: list[str] = []
    page = (
        '<p>Of <span class="arithmatex">\\(x &lt; \\theta\\)</span></p>'
        '<div class="arithmatex">\\[\n\\frac{a}{b}\n\\]</div>'
        '<span class="arithmatex">\\(1 + \\thetta\\)</span>'
    )
    shown = site_module("formulae").render(page, problems.append)
    assert '<span class="formula"><math><mi>x</mi><mo>&lt;</mo><mi>θ</mi></math></span>' in shown
    assert '<div class="formula"><math display="block"><mfrac>' in shown
    (problem,) = problems
    assert "thetta" in problem
    assert "character 4" in problem


def test_the_site_asks_no_other_host() -> None:
    """Mermaid diagrams too: Material loads the script for them from another host."""
    for path in [ROOT / "mkdocs.yml", *(ROOT / "docs" / "_site").glob("*.css")]:
        assert not re.search(r"https?://", path.read_text()), path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = path.read_text()
        assert "```mermaid" not in text, path
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(?:img|script|iframe)\b[^>]*https?:", text), path
