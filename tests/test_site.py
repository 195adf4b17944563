"""The documentation site: every public name has an entry in the reference, every page a place in the navigation."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rheobase

ROOT = Path(__file__).parent.parent
NAMESPACES = [name for name in rheobase.__all__ if isinstance(getattr(rheobase, name), ModuleType)]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs" / "_site"))
    try:
        return importlib.import_module("reference")
    finally:
        sys.path.pop(0)


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
