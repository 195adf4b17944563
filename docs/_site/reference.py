"""Pages of the reference, from the source by reading it, so that nothing heavy is imported.

``rheobase`` and each of its namespaces has a page with a table of its public names and one entry for each. An object
with several public names has its entry at the first one; the others link to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
ROOT = "rheobase"

INCLUDED = {  # modules that a namespace does not name and that the guides use
    "rheobase.core": ["rheobase.core.errors"],
    "rheobase.graph": ["rheobase.graph.operations"],
    "rheobase.zoo": ["rheobase.zoo.digits"],
}
SECTIONS = {"function": "Functions", "method": "Methods", "class": "Classes", "value": "Values", "module": "Modules"}


@dataclass(frozen=True)
class Name:
    """A public name: the module and name where the object is defined, its kind, and its docstring's first sentence."""

    public: str
    origin: str
    kind: str
    summary: str = field(compare=False)


@cache
def tree(module: str) -> tuple[ast.Module, bool]:
    """The syntax tree of a module, of its stub if it has one, and whether it is a package."""
    path = SOURCE / module.replace(".", "/")
    for file in (path / "__init__.pyi", path / "__init__.py", path.with_suffix(".py")):
        if file.exists():
            return ast.parse(file.read_text()), file.stem == "__init__"
    raise ModuleNotFoundError(module)


def is_module(name: str) -> bool:
    """True if a module or package has this name."""
    path = SOURCE / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def docstring(module: str) -> str:
    """The docstring of a module; stubs have none."""
    path = SOURCE / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def bindings(module: str) -> Iterator[tuple[str, ast.stmt, str | None, bool]]:
    """Names bound at the top of a module: name, statement, where it is imported from, imported for others to use."""
    body, package = tree(module)
    for statement in body.body:
        match statement:
            case ast.ImportFrom(module=source, names=names, level=level):
                base = module.split(".")
                base = base[: len(base) - level + package] if level else []
                for alias in names:
                    origin = ".".join([*base, *([source] if source else []), alias.name])
                    yield alias.asname or alias.name, statement, origin, alias.asname == alias.name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, statement, None, True
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, statement, None, True


def public_names(module: str) -> list[str]:
    """``__all__``; without one, what the module defines or imports under the same name (``import X as X``)."""
    names = []
    for name, statement, _, exported in bindings(module):
        if name == "__all__" and isinstance(statement, ast.Assign):
            return sorted(ast.literal_eval(statement.value))
        if exported and not name.startswith("_"):
            names.append(name)
    return sorted(names)


def sentence(text: str | None) -> str:
    """The first paragraph, in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def find(public: str) -> Name:
    """Follow a public name through its imports to the definition."""
    origin = public
    while True:
        module, _, name = origin.rpartition(".")
        found = {bound: (statement, source) for bound, statement, source, _ in bindings(module)}
        statement, source = found.get(name, (None, None))
        if is_module(origin) and source in (None, origin):
            return Name(public, origin, "module", sentence(docstring(origin)))
        if statement is None:
            raise LookupError(f"{public}: {origin} is not bound in {module}")
        if source is not None:
            if not source.startswith(ROOT):
                return Name(public, source, "value", "")
            origin = source
            continue
        body = tree(module)[0].body
        following = body[body.index(statement) + 1 : body.index(statement) + 2]
        match statement:
            case ast.FunctionDef(decorator_list=decorators):
                recipe = any(isinstance(use, ast.Name) and use.id == "published" for use in decorators)
                return Name(public, origin, "method" if recipe else "function", sentence(ast.get_docstring(statement)))
            case ast.ClassDef():
                return Name(public, origin, "class", sentence(ast.get_docstring(statement)))
        match following:
            case [ast.Expr(value=ast.Constant(value=str(text)))]:
                return Name(public, origin, "value", sentence(text))
        return Name(public, origin, "value", "")


def namespaces() -> list[str]:
    """``rheobase`` and the namespaces in it."""
    names = (f"{ROOT}.{name}" for name in public_names(ROOT))
    return [ROOT, *(name for name in names if is_module(name))]


def entries() -> dict[str, list[Name]]:
    """The public names of every namespace, with those of the modules on its page."""
    found = {}
    for space in namespaces():
        names = [find(f"{space}.{name}") for name in public_names(space)]
        modules = [name.origin for name in names if name.kind == "module"] if space != ROOT else []
        for module in [*modules, *INCLUDED.get(space, [])]:
            more = (find(f"{module}.{name}") for name in public_names(module))
            names += [name for name in more if name.summary]
        found[space] = names
    return found


def pages() -> dict[str, str]:
    """Path and Markdown text of every page of the reference."""
    every = entries()
    homes: dict[str, str] = {}  # where an object is defined -> the public name with its entry
    for names in every.values():
        for name in names:
            homes.setdefault(name.origin, name.public)
    return {f"reference/{space}.md": page(space, names, homes) for space, names in every.items()}


def page(space: str, names: list[Name], homes: dict[str, str]) -> str:
    """One page: the docstring, a table, an entry for each object that has its home here."""
    text = [f"# {space}\n", entry(space, members=False, show_root_heading=False, show_root_toc_entry=False)]
    for kind, title in SECTIONS.items():
        chosen = [name for name in names if name.kind == kind]
        if chosen:
            text += [f"## {title}\n", "| name | summary |", "| --- | --- |"]
            text += [row(name, name.public.removeprefix(f"{space}."), homes[name.origin]) for name in chosen]
            text.append("")
        for name in chosen:
            shown = name.public.removeprefix(f"{space}.")
            if homes[name.origin] == name.public and kind != "module":
                text.append(entry(name.public, heading=shown, toc_label=shown) if "." in shown else entry(name.public))
    return "\n".join(text)


def row(name: Name, shown: str, home: str) -> str:
    """A row of a table: the name, with a link to its entry, and what it is."""
    summary = re.sub(r":math:`([^`]+)`", r"$\1$", name.summary)
    summary = re.sub(r":\w+:`([^`]+)`", r"`\1`", summary).replace("|", "\\|")
    if name.kind == "module":
        return f"| [`{shown}`]({name.origin}.md) | {summary} |" if has_page(name) else f"| `{shown}` | {summary} |"
    elsewhere = "" if home == name.public else f" Its entry is at `{home}`."
    return f"| [`{shown}`][{home}] | {summary}{elsewhere} |"


def has_page(name: Name) -> bool:
    """True for a namespace, which has a page; other modules are documented on the page of theirs."""
    return name.public.count(".") == 1


def entry(public: str, **options: object) -> str:
    """What mkdocstrings replaces by the documentation of an object."""
    lines = [
        f"      {option}: {str(value).lower() if isinstance(value, bool) else value}"
        for option, value in options.items()
    ]
    return "\n".join([f"::: {public}", *(["    options:", *lines] if lines else []), ""])
