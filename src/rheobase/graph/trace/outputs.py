"""The tensors that a network returns, by name, and the choice of one of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rheobase.core.errors import TraceError
from rheobase.graph.trace.prepare import IgnoredAsserts

MAIN = ("logits", "out")
"""Names of the output that is converted if several are returned and none is chosen."""


def outputs_of(returned: Any) -> dict[str, Tensor]:
    """The tensors of a returned value, by name.

    A single tensor has the name "". In a tuple or list an output is named by its position, in a mapping, a named tuple
    or a dataclass by its key or field; names of nested values are joined by dots.

    Example:
        >>> import torch
        >>> list(outputs_of({"out": torch.ones(1), "aux": (torch.ones(1), None)}))
        ['out', 'aux.0']
    """
    return {".".join(path): tensor for path, tensor in _leaves(returned, ())}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, tuple | list):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, (*path, str(key)))


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
class OneOutput:
    """A network as a function that returns its output at position ``index``."""

    network: nn.Module
    index: int

    def __call__(self, x: Tensor) -> Tensor:
        """The output for a batch."""
        return list(outputs_of(self.network(x)).values())[self.index]

    def double(self) -> OneOutput:
        """A copy that computes in float64."""
        return OneOutput(copy.deepcopy(self.network).double(), self.index)


def choose(found: Mapping[str, Tensor], output: str | int | None, kind: str) -> str:
    """The name of the output to convert.

    Args:
        found: the outputs (:func:`outputs_of`).
        output: name or position of one; None: the only one, or the only one named "logits" or "out".
        kind: class of the returned value, for messages.

    Raises:
        TraceError: if ``output`` names none of them, or several are returned and none is chosen.
    """
    where, names = "the network's output", list(found)
    if not found:
        raise TraceError.typed(f"is a {kind} without tensors", where=where, remedy="return the logits as a tensor")
    listed = ", ".join(f"{_shown(name)} {list(tensor.shape)}" for name, tensor in found.items() if name)
    if output is None:
        main = names if len(names) == 1 else [name for name in MAIN if name in found]
        if len(main) == 1:
            return main[0]
        reason = f"is a {kind} of {len(names)} tensors: {listed}"
        raise TraceError(reason, where=where, remedy=f"choose the one to convert, such as output={_shown(names[0])}")
    if isinstance(output, int) and -len(names) <= output < len(names):
        return names[output]
    if str(output) in found:
        return str(output)
    if names == [""]:
        reason, remedy = f"is one tensor, and has no {output!r}", "leave output out"
    else:
        reason, remedy = f"has no {output!r}; it has {listed}", "choose one of these"
    raise TraceError(reason, where=where, remedy=remedy)


def _shown(name: str) -> str:
    return name if name.isdigit() else repr(name)
