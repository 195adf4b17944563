"""A torch call on its way to the nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class Ref(str):
    """Name of a node whose value is an argument of a call."""


@dataclass(frozen=True)
class Fixed:
    """A value that does not depend on the network's input; ``name`` if it is a parameter or buffer of the network."""

    value: Any
    name: str | None = None


class Refused(Exception):
    """A call that cannot become nodes.

    Args:
        text: why, as a clause.
        remedy: how to do without it.
    """

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.text, self.remedy = text, remedy


@dataclass(frozen=True)
class Call:
    """One call that the tracer recorded.

    Attributes:
        name: of the function, without overload and the underscore of in-place calls: ``"conv2d"`` of ATen,
            ``"mylib::flip_channels"`` of others.
        arguments: by their names in the schema: a :class:`Ref` for a tensor that depends on the network's input, a
            :class:`Fixed` for any other tensor, else a plain value.
        outputs: shape of a sample of every tensor that it returns.
    """

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[tuple[int, ...], ...]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def __contains__(self, argument: str) -> bool:
        return argument in self.arguments

    def get(self, argument: str, default: Any = None) -> Any:
        """An argument that not every function of the family has."""
        return self.arguments.get(argument, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample of the (first) output; () if it is no tensor."""
        return self.outputs[0] if self.outputs else ()

    def input(self, *arguments: str) -> Ref:
        """The first of these arguments that the function has, which must depend on the network's input.

        Raises:
            Refused: if it does not.
        """
        return reference(next((self.arguments[a] for a in arguments if a in self.arguments), None))

    def weight(self, argument: str) -> Fixed | None:
        """An argument that must not depend on the network's input; None where it is not given.

        Raises:
            Refused: if it does.
        """
        value = self.arguments[argument]
        if value is None or isinstance(value, Fixed):
            return value
        raise Refused("has a weight that depends on the input (a product of activations)", "use a fixed weight")

    def split(self) -> tuple[tuple[str, ...], dict[str, Fixed], dict[str, Any]]:
        """Every argument, as inputs of a node, its parameters, and its attributes.

        Raises:
            Refused: if a list holds both inputs and constants.
        """
        inputs: list[str] = []
        fixed, plain = {}, {}
        for argument, value in self.arguments.items():
            several = isinstance(value, list | tuple) and any(isinstance(part, Ref) for part in value)
            if several or isinstance(value, Ref):
                inputs += map(reference, value if several else [value])
            elif isinstance(value, Fixed):
                fixed[argument] = value
            else:
                plain[argument] = list(value) if isinstance(value, list | tuple) else value
        return tuple(inputs), fixed, plain


def reference(value: Any) -> Ref:
    """A value that must depend on the network's input.

    Raises:
        Refused: if it does not.
    """
    if not isinstance(value, Ref):
        raise Refused("applies the input to a constant in a way that is not linear", "swap the roles of the two")
    return value


def whole_numbers(value: Any, axes: int) -> list[int]:
    """A number, or one for each axis, as one for each of ``axes``."""
    values = [value] * axes if isinstance(value, int) else list(value)
    return [int(v) for v in (values * axes if len(values) == 1 else values)]


def one_for_all(value: Tensor) -> Tensor:
    """A constant [B, ...] that is the same for every image, [1, ...].

    Raises:
        Refused: if it is not.
    """
    if value.shape[0] != 1 and not bool((value == value[:1]).all()):
        raise Refused("uses a constant that differs within the batch", "make it the same for each image")
    return value[:1]
