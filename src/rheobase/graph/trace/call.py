"""A recorded torch call, helpers to read its arguments, and notes about calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TRACE_BATCH = 2
"""Images in the traced batch; the first axis of every value computed from the input must have this size."""


class Ref(str):
    """Name of a node whose value is an argument of a call."""


@dataclass(frozen=True)
class Fixed:
    """A value that does not depend on the network's input; ``name`` if it is a parameter or buffer of the network."""

    value: Any
    name: str | None = None


class Elsewhere:
    """A value that depends on the input and whose axis 0 is not the batch alone."""


class Refused(Exception):
    """A call that cannot become nodes: the reason, as a clause, and a remedy, as an imperative."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.text, self.remedy = text, remedy


class Misplaced(Refused):
    """A refusal for the place of the batch; after another refusal it says nothing new."""


@dataclass(frozen=True)
class Note:
    """A rewrite or a refusal of a part of the network; a refusal has a remedy."""

    where: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" + (f". Remedy: {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Call:
    """One call that the tracer recorded.

    Attributes:
        name: name of the function, without overload and without the underscore of in-place calls: ``"conv2d"`` for
            ATen, ``"mylib::flip_channels"`` for others.
        arguments: name in the schema -> a :class:`Ref` for a tensor that depends on the network's input, a
            :class:`Fixed` for any other tensor, else a plain value.
        outputs: shape of a sample of every returned tensor.
        function: the function, which takes the arguments by name.
        floating: True if it returns floating-point numbers.
    """

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[tuple[int, ...], ...]
    function: Any = None
    floating: bool = True

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def __contains__(self, argument: str) -> bool:
        return argument in self.arguments

    def get(self, argument: str, default: Any = None) -> Any:
        """An argument, or ``default`` if the function does not have it."""
        return self.arguments.get(argument, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample of the first output; () if it is not a tensor."""
        return self.outputs[0] if self.outputs else ()

    def input(self, *arguments: str) -> Ref:
        """The first of these arguments that the function has; refused if it does not depend on the network's input."""
        return reference(next((self.arguments[a] for a in arguments if a in self.arguments), None))

    def weight(self, argument: str) -> Fixed | None:
        """A constant argument, None if it is not given; refused if it depends on the network's input."""
        value = self.arguments[argument]
        if value is None or isinstance(value, Fixed):
            return value
        raise Refused("has a weight that depends on the input (a product of activations)", "use a fixed weight")

    def split(self) -> tuple[tuple[str, ...], dict[str, Fixed], dict[str, Any]]:
        """All arguments, as inputs, parameters and attributes of a node; a list of inputs and constants is refused."""
        inputs: list[str] = []
        fixed, plain = {}, {}
        for argument, value in self.arguments.items():
            several = isinstance(value, list | tuple) and any(isinstance(item, Ref) for item in value)
            if several or isinstance(value, Ref):
                inputs += map(reference, value if several else [value])
            elif isinstance(value, Fixed):
                fixed[argument] = value
            else:
                plain[argument] = list(value) if isinstance(value, list | tuple) else value
        return tuple(inputs), fixed, plain


def reference(value: Any) -> Ref:
    """Return ``value`` if it depends on the network's input; else it is refused."""
    if not isinstance(value, Ref):
        if isinstance(value, Elsewhere):
            text = "reads a value whose axis 0 is not the batch alone"
            raise Refused(text, "keep axis 0 for the batch in this operation")
        raise Refused("applies the input to a constant in a way that is not linear", "swap the input and the constant")
    return value


def whole_numbers(value: Any, axes: int) -> list[int]:
    """One number for each of ``axes`` axes, from a single number or a list."""
    values = [value] if isinstance(value, int) else list(value)
    return [int(v) for v in (values * axes if len(values) == 1 else values)]


def one_for_all(value: Tensor) -> Tensor:
    """A constant [B, ...] as [1, ...]; refused if it differs between images."""
    if value.shape[0] != 1 and not bool((value == value[:1]).all()):
        raise Refused("uses a constant that differs between images", "use the same constant for all images")
    return value[:1]
