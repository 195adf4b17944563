"""What griffe does not read from the sources: reStructuredText in docstrings, and constructors of checked values.

``.. math::`` becomes a block between ``$$``, ``:math:`` becomes ``$...$``, and ``:class:``, ``:func:`` and their like
become links where the object has an entry in the reference, else code. A class of fields gets the constructor that
pydantic gives it, so that the reference has types and defaults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import griffe

VALUE = "rheobase.core.values.Value"
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


def constructor(cls: griffe.Class) -> griffe.Function:
    """The constructor that pydantic makes of the fields of a class and of its bases; ``kind`` only tells them apart."""
    fields = {}
    for owner in [*reversed(cls.mro()), cls]:
        for name, member in owner.members.items():
            is_field = member.is_attribute and "instance-attribute" in member.labels and member.annotation is not None
            if is_field and name != "kind" and not name.startswith("_"):
                fields[name] = griffe.Parameter(
                    name,
                    annotation=member.annotation,
                    kind=griffe.ParameterKind.keyword_only,
                    default=default(member.value),
                )
    return griffe.Function("__init__", parameters=griffe.Parameters(*fields.values()), parent=cls)


def default(value: Any) -> Any:
    """The default of a field: the value, or the one within ``Field(...)``."""
    if not (isinstance(value, griffe.ExprCall) and str(value.function) == "Field"):
        return value
    for argument in value.arguments:
        if not isinstance(argument, griffe.ExprKeyword):
            return argument
        if argument.name == "default":
            return argument.value
    return None


class Rheobase(griffe.Extension):
    """Completes a package once it is read, so that names can be resolved across modules."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Convert the docstrings of a package and add constructors."""
        for found in list(objects(pkg)):
            without = found.is_class and "__init__" not in found.members
            if without and any(base.path == VALUE for base in found.mro()):
                found.set_member("__init__", constructor(found))
            if found.docstring:
                found.docstring.value = to_markdown(found.docstring.value, lambda name, at=found: self.path(name, at))

    def path(self, name: str, at: Any) -> str:
        """The full path of a name in a docstring, the name itself where it belongs to another package."""
        first, dot, rest = name.partition(".")
        try:
            return at.resolve(first) + dot + rest
        except griffe.NameResolutionError:
            return name
