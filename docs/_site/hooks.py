"""What MkDocs does beyond its configuration: the reference, pages from the root, links written for GitHub, formulae."""

from __future__ import annotations

import json
import logging
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import formulae
import reference

log = logging.getLogger("mkdocs.hooks.reference")
ROOT = Path(__file__).parents[2]
FROM_ROOT = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/tour.ipynb": "tour.md",
}
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]+)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    names = [{path.removeprefix("reference/").removesuffix(".md"): path} for path in reference.pages()]
    for item in config.nav or []:
        if isinstance(item, dict) and "Reference" in item:
            item["Reference"] = names
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for name, path in FROM_ROOT.items():
        if (ROOT / name).exists():
            text = (ROOT / name).read_text()
            files.append(File.generated(config, path, content=_page(text) if name.endswith(".ipynb") else text))
    return files


def _page(notebook: str) -> str:
    """The cells of a notebook as Markdown."""
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(notebook)["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in cells)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the page on the site, or to the file in the repository."""
    here = page.file.src_uri
    if here.startswith("reference/"):
        return markdown
    on_github = next((name for name, path in FROM_ROOT.items() if path == here), f"docs/{here}")
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files if not file.generated_by} | FROM_ROOT

    def follow(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(on_github), found["target"]))
        anchor = found["anchor"] or ""
        if target in pages:
            return f"[{found['text']}]({posixpath.relpath(pages[target], posixpath.dirname(here) or '.')}{anchor})"
        if config.repo_url and (ROOT / target).exists():
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"[{found['text']}]({config.repo_url.rstrip('/')}/{kind}/main/{target}{anchor})"
        return found["text"]  # without a repository to lead to

    code = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
    done, last = [], 0
    for block in code.finditer(markdown):
        done += [LINK.sub(follow, markdown[last : block.start()]), block[0]]
        last = block.end()
    return "".join([*done, LINK.sub(follow, markdown[last:])])


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Render the formulae; one that cannot be parsed is a warning, and so fails a strict build."""
    remedy = "Remedy: correct it in the page or, in the reference, in the docstring."
    return formulae.render(html, lambda problem: log.warning("%s: %s %s", page.file.src_uri, problem, remedy))


def on_post_build(*, config: MkDocsConfig) -> None:
    """Warn, and so fail a strict build, about public names without an entry."""
    homes = {name.origin: name.public for names in reversed(reference.entries().values()) for name in reversed(names)}
    pages = "".join(file.read_text() for file in Path(config.site_dir, "reference").glob("*/index.html"))
    entries = set(re.findall(r'<h\d id="([^"]+)"', pages))
    names = [name for names in reference.entries().values() for name in names if name.kind != "module"]
    for name in names:
        if homes[name.origin] not in entries:
            log.warning("%s has no entry in the reference", name.public)
    log.info("%d public names have an entry in the reference", len(names))
