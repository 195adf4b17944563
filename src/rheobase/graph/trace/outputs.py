"""The tensors that a network returns, by name."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.core.errors import TraceError
from rheobase.graph.operations.outputs import Structure
from rheobase.graph.trace.prepare import IgnoredAsserts


def outputs_of(returned: Any) -> dict[str, Tensor]:
    """The tensors of a returned value, by name.

    A single tensor has the name "". In a tuple or list an output is named by its position, in a mapping, a named tuple
    or a dataclass by its key or field; names of nested values are joined by dots.

    Example:
        >>> import torch
        >>> list(outputs_of({"out": torch.ones(1), "aux": (torch.ones(1), None)}))
        ['out', 'aux.0']
    """
    found: dict[str, Tensor] = {}
    for path, tensor in _leaves(returned, ()):
        name = ".".join(path)
        if name in found:
            raise TraceError(f"has two outputs named {name!r}", where="the network's output", remedy="rename a key")
        found[name] = tensor
    return found


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    else:
        for key, entry in (_entries(value) or {}).items():
            yield from _leaves(entry, (*path, str(key)))


def _entries(value: Any) -> dict[Any, Any] | None:
    """The entries of a container by key or position; None for any other value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    return dict(value) if isinstance(value, Mapping) else None


def structure_with(returned: Any, kept: Container[str]) -> Structure:
    """The structure of a returned value, with the outputs in ``kept``; the others are None.

    A dataclass, named tuple or other mapping becomes a dict.
    """

    def tree(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": list(value.shape[1:])} if ".".join(path) in kept else None
        if (entries := _entries(value)) is None:
            return None
        trees = {str(key): tree(entry, (*path, str(key))) for key, entry in entries.items()}
        kind = next((kind for kind in (list, tuple) if isinstance(value, kind) and not hasattr(value, "_asdict")), dict)
        return {kind.__name__: trees if kind is dict else list(trees.values())}

    return Structure(tree(returned, ()))


@contextmanager
def returning_tensors(network: nn.Module) -> Iterator[None]:
    """Let a network return the tuple of its output tensors, which torch.export can trace."""
    forward, own = network.forward, vars(network).get("forward")

    @functools.wraps(forward)
    def tensors(*args: Any) -> tuple[Tensor, ...]:
        with IgnoredAsserts():
            return tuple(outputs_of(forward(*args)).values())

    network.forward = tensors
    try:
        yield
    finally:
        del network.forward
        if own is not None:
            network.forward = own


@dataclass(frozen=True)
class Traced:
    """A network as a function that returns the outputs at some positions: one, or several flattened and joined."""

    network: nn.Module
    positions: tuple[int, ...]
    joined: bool

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs for a batch."""
        values = list(outputs_of(self.network(x)).values())
        chosen = [values[i] for i in self.positions]
        return torch.cat([value.flatten(1) for value in chosen], 1) if self.joined else chosen[0]

    def double(self) -> Traced:
        """A copy that computes in float64."""
        return dataclasses.replace(self, network=copy.deepcopy(self.network).double())
