"""Several outputs of a network, as one value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import TraceError
from rheobase.graph.node import Node
from rheobase.graph.operations.operation import OPERATIONS, NodeContext, Operation, Synapses, built_in
from rheobase.graph.operations.words import Value, Words

MAIN = ("logits", "out")
"""Names of the output that is used if a network has several and none is chosen."""


@dataclass(frozen=True)
class Structure:
    """How the outputs of a network are arranged: its tensors by name, in plain values.

    Attributes:
        tree: ``{"tensor": shape}`` with the shape of a sample, ``{"dict": {key: tree}}``, ``{"list": [tree]}``,
            ``{"tuple": [tree]}``, or None where the network returns no tensor that depends on its input.

    Example:
        >>> import torch
        >>> structure = Structure({"dict": {"out": {"tensor": [3]}, "aux": {"list": [{"tensor": [2, 2]}, None]}}})
        >>> structure.shapes
        {'out': (3,), 'aux.0': (2, 2)}
        >>> structure.unpack(torch.arange(7.0).reshape(1, 7))["aux"][0]
        tensor([[[3., 4.],
                 [5., 6.]]])
    """

    tree: Any

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of a sample. The name joins the keys and positions on the way to a tensor by dots."""
        found: dict[str, tuple[int, ...]] = {}
        self._map(self.tree, (), lambda name, shape: found.update({name: shape}))
        return found

    def unpack(self, values: Tensor) -> Any:
        """The outputs in their structure, from their values [..., F], each flattened, one after the other."""
        parts = iter(values.split([prod(shape) for shape in self.shapes.values()], -1))
        return self._map(self.tree, (), lambda _, shape: next(parts).unflatten(-1, shape))

    def _map(self, tree: Any, path: tuple[str, ...], leaf: Any) -> Any:
        if tree is None:
            return None
        ((kind, content),) = tree.items()
        if kind == "tensor":
            return leaf(".".join(path), tuple(content))
        items = content.items() if kind == "dict" else enumerate(content)
        values = {key: self._map(entry, (*path, str(key)), leaf) for key, entry in items}
        return values if kind == "dict" else {"list": list, "tuple": tuple}[kind](values.values())


@built_in
class Outputs(Operation):
    """Concatenation of flat values [F]; ``structure`` is the :class:`Structure` of the outputs, as JSON.

    A factor of an input becomes an affine node before it, so that this node remains the output.
    """

    name = "outputs"

    def apply(self, *xs: Tensor, structure: str) -> Tensor:
        return torch.cat(xs, 1)

    def synapses(self, at: NodeContext) -> Synapses:
        return "route"

    def lower(self, words: Words, node: Node) -> Value:
        """Write a concatenation of channels."""
        return OPERATIONS["concat"].lower(words, replace(node, attributes={"dim": 1}))


def choose_output(shapes: Mapping[str, Sequence[int]], output: str | int | None, kind: str, remedy: str) -> str:
    """The name of one of several outputs.

    Args:
        shapes: name -> shape; a network that returns a single tensor has the output "".
        output: name or position; None: the only one, or the only one named "logits" or "out".
        kind: the beginning of the reason if none is chosen, such as "is a tuple of".
        remedy: the remedy if none is chosen, with {} for the name of an output.

    Raises:
        TraceError: if ``output`` names none of them, or several are returned and none is chosen.
    """
    where, names = "the network's output", list(shapes)
    listed = ", ".join(f"{_shown(name)} {list(shape)}" for name, shape in shapes.items() if name)
    if output is None:
        main = names if len(names) == 1 else [name for name in MAIN if name in shapes]
        if len(main) == 1:
            return main[0]
        reason = f"{kind} {len(names)} tensors: {listed}"
        raise TraceError(reason, where=where, remedy=remedy.format(_shown(names[0])))
    if isinstance(output, int) and not isinstance(output, bool) and -len(names) <= output < len(names):
        return names[output]
    if str(output) in shapes:
        return str(output)
    if names == [""]:
        reason, remedy = f"is one tensor, and has no {output!r}", "leave output out"
    else:
        reason, remedy = f"has no {output!r}; it has {listed}", "choose one of these"
    raise TraceError(reason, where=where, remedy=remedy)


def _shown(name: str) -> str:
    return name if name.isdigit() else repr(name)


def structure_of(node: Node) -> Structure | None:
    """The structure of the outputs that a node joins; None for any other node."""
    attributes: Mapping[str, Any] = node.attributes
    return Structure(json.loads(attributes["structure"])) if node.operation == Outputs.name else None
