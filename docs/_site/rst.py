"""Docstrings with reStructuredText's mathematics and roles, as Markdown.

``.. math::`` becomes a block between ``$$``, ``:math:`` becomes ``$...$``, and ``:class:``, ``:func:`` and their like
become links where the object has an entry in the reference, else code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import griffe

DIRECTIVE = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<first>[^\n]*)(?P<rest>(?:\n+(?P=indent) +[^\n]*)*)", re.MULTILINE
)
ROLE = re.compile(r":(?P<role>class|func|meth|attr|mod|data|math):`~?(?P<text>[^`]+)`", re.DOTALL)


def to_markdown(text: str, resolve: Callable[[str], str]) -> str:
    """The docstring in Markdown; ``resolve`` gives the full path of a name."""

    def block(found: re.Match[str]) -> str:
        indent = found["indent"]
        lines = [line.strip() for line in f"{found['first']}\n{found['rest']}".splitlines() if line.strip()]
        return "\n".join([f"{indent}$$", *(indent + line for line in lines), f"{indent}$$"])

    def role(found: re.Match[str]) -> str:
        name = " ".join(found["text"].split())
        if found["role"] == "math":
            return f"${name}$"
        return f'<autoref optional identifier="{resolve(name)}"><code>{name.removeprefix("rheobase.")}</code></autoref>'

    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)  # as code, not as a box
    return ROLE.sub(role, DIRECTIVE.sub(block, text))


def objects(parent: Any) -> Iterator[Any]:
    """Everything that is defined below an object."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from objects(member)


class RestructuredText(griffe.Extension):
    """Converts every docstring of a package once it is read, so that names can be resolved across modules."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Convert the docstrings of a package."""
        for found in objects(pkg):
            if found.docstring:
                found.docstring.value = to_markdown(found.docstring.value, lambda name, at=found: self.path(name, at))

    def path(self, name: str, at: Any) -> str:
        """The full path of a name in a docstring, the name itself where it belongs to another package."""
        first, dot, rest = name.partition(".")
        try:
            return at.resolve(first) + dot + rest
        except griffe.NameResolutionError:
            return name
