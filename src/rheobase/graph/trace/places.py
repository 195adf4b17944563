"""Follow single elements through calls that only move them, by running these calls on positions.

A call that permutes, copies, drops or overwrites elements is run twice: on tensors that hold the position of each
element, and on their negatives. What changes its sign was moved, and its value is the position that it came from; what
does not is a constant. The batch may be anywhere in between, as in ``x.reshape(-1, channels)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.core.errors import first_line
from rheobase.graph.trace.call import TRACE_BATCH, Call, Elsewhere, Fixed, Misplaced, Ref

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

CONSTANT = -1


@dataclass(frozen=True, eq=False)
class Places(Elsewhere):
    """A tensor whose elements are elements of other nodes, or constants. All tensors have its shape.

    Attributes:
        sources: names of the nodes.
        image: index of the image in the traced batch; ``CONSTANT`` for a constant.
        position: position in the flattened and joined samples of the sources.
        value: the constants, float64.
    """

    sources: tuple[str, ...]
    image: Tensor
    position: Tensor
    value: Tensor

    @classmethod
    def of(cls, name: str, shape: Sequence[int]) -> Places:
        """All elements of a node, in their order."""
        n, whole = prod(shape), (TRACE_BATCH, *shape)
        code = torch.arange(TRACE_BATCH * n).reshape(whole)
        return cls((name,), code // max(n, 1), code % max(n, 1), torch.zeros(whole, dtype=torch.float64))

    def map(self, function: Callable[[Tensor], Tensor]) -> Places:
        """The same elements in another shape."""
        return Places(self.sources, *map(function, (self.image, self.position, self.value)))

    def batch_first(self) -> bool:
        """True if axis 0 is the batch, and the same elements are taken of every image."""
        if self.image.dim() == 0 or len(self.image) != TRACE_BATCH:
            return False
        constant = self.image == CONSTANT
        image = torch.arange(TRACE_BATCH).reshape(-1, *(1,) * (self.image.dim() - 1))
        same = (self.position == self.position[:1]) & (constant == constant[:1]) & (self.value == self.value[:1])
        return bool(((constant | (self.image == image)) & same).all())


def follow(builder: Builder, call: Call) -> list[Places]:
    """The elements that a call returns, for each of its outputs.

    Raises:
        Refused: if the call computes with its inputs.
    """
    given: list[Places] = []

    def collect(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [collect(item) for item in value]
        if isinstance(value, Ref):
            value = Places.of(value, builder.shapes[value])
        if isinstance(value, Places):
            given.append(value)
        return value

    arguments = {name: collect(value) for name, value in call.arguments.items()}
    sources = tuple(dict.fromkeys(source for places in given for source in places.sources))
    sizes = [prod(builder.shapes[source]) for source in sources]
    starts = dict(zip(sources, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
    total = sum(sizes)

    def codes(places: Places) -> Tensor:
        table = [torch.arange(prod(builder.shapes[s])) + starts[s] for s in places.sources]
        return places.image * total + torch.cat(table)[places.position] + 1

    def run(number: Callable[[Places], Tensor]) -> list[Tensor]:
        def value(argument: Any) -> Any:
            if isinstance(argument, list):
                return [value(item) for item in argument]
            if isinstance(argument, Places):
                moved = number(argument).double()
                return torch.where(argument.image == CONSTANT, argument.value, moved).contiguous()
            if isinstance(argument, Fixed):
                tensor = argument.value
                return tensor.double() if isinstance(tensor, Tensor) and tensor.is_floating_point() else tensor
            return argument

        found = call.function(**{name: value(argument) for name, argument in arguments.items()})
        return list(found) if isinstance(found, tuple | list) else [found]

    numbers = torch.rand(TRACE_BATCH * total + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            plus, minus, checks = run(codes), run(lambda p: -codes(p)), run(lambda p: numbers[codes(p).clamp(min=0)])
    except Exception as error:
        text = f"moves values in a way that cannot be followed ({first_line(error)})"
        raise Misplaced(text, "rewrite it with slices, torch.cat and reshapes") from error
    found = []
    for code, negative, check in zip(plus, minus, checks, strict=True):
        constant = code == negative
        index = torch.where(constant, 1, code).round().long()
        inside = bool(((index >= 1) & (index < len(numbers))).all())
        if not inside or not torch.equal(torch.where(constant, code, numbers[index.clamp(0, len(numbers) - 1)]), check):
            raise Misplaced("computes with values in a way that is not linear", "use moves of values only")
        zero = torch.zeros((), dtype=torch.long)
        image = torch.where(constant, CONSTANT, (index - 1) // max(total, 1))
        position = torch.where(constant, zero, (index - 1) % max(total, 1))
        found.append(Places(sources, image, position, torch.where(constant, code, 0.0)))
    return found


@dataclass(frozen=True)
class Layout:
    """Where the batch is: axis ``axis`` of the tensor has ``outer`` times the batch times ``inner`` elements."""

    axis: int
    outer: int
    inner: int

    @classmethod
    def of(cls, places: Places) -> Layout:
        """The layout of a tensor.

        Raises:
            Refused: if the batch is not a factor of one axis.
        """
        for axis, size in enumerate(places.image.shape):
            rows = places.image.movedim(axis, 0).reshape(size, -1)
            second = (rows == 1).any(1).nonzero()
            if size % TRACE_BATCH or not len(second):
                continue
            inner = int(second[0])
            if inner == 0 or size % (TRACE_BATCH * inner):
                continue
            layout = cls(axis, size // (TRACE_BATCH * inner), inner)
            if places.map(layout.batch_to_front).batch_first():
                return layout
        raise Misplaced("mixes images of the batch", "keep axis 0 for the batch in every operation")

    def batch_to_front(self, tensor: Tensor) -> Tensor:
        """The tensor with the batch at axis 0, and the axis that it was part of split."""
        split = (n for n in (self.outer, self.inner) if n > 1)
        sizes = (*tensor.shape[: self.axis], self.outer, TRACE_BATCH, self.inner, *tensor.shape[self.axis + 1 :])
        moved = tensor.reshape(sizes).movedim(self.axis + 1, 0)
        return moved.reshape(TRACE_BATCH, *tensor.shape[: self.axis], *split, *tensor.shape[self.axis + 1 :])

    def batch_back(self, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`batch_to_front`, for a tensor whose axes before and within the split are the same."""
        before = tensor.shape[1 : self.axis + 1]
        after = tensor.shape[self.axis + 1 + sum(n > 1 for n in (self.outer, self.inner)) :]
        moved = tensor.reshape(TRACE_BATCH, *before, self.outer, self.inner, *after).movedim(0, self.axis + 1)
        return moved.reshape(*before, -1, *after)

    def axes(self, axis: int, rank: int) -> list[int]:
        """The axes at which an axis of a tensor of ``rank`` axes is after :meth:`batch_to_front`, without the batch."""
        axis %= rank
        number = sum(n > 1 for n in (self.outer, self.inner))
        if axis < self.axis:
            return [axis + 1]
        if axis == self.axis:
            return list(range(axis + 1, axis + 1 + number))
        return [axis + number]
