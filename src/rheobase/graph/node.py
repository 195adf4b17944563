"""A node of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: unique; the path of the module if the operation is a module.
        operation: a key of ``OPERATIONS``, or ``input``, ``site``, ``max_pool``.
        inputs: names of the nodes it reads.
        attributes: constant arguments, JSON values only.
        parameters: argument -> name of a tensor of the graph.
        shape: shape of one sample of its output (no batch axis).
        origin: its place in the user's network, for messages.
    """

    name: str
    operation: str
    inputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    origin: str = ""
