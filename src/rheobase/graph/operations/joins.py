"""Sums and concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.affine import write_affine
from rheobase.graph.operations.operation import NodeContext, Operation, Scaled, Synapses, built_in
from rheobase.graph.operations.shape import write_reshape
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused, one_for_all, reference

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


@built_in
class Add(Operation):
    """Sum of the inputs, left to right."""

    name = "add"
    traced_from = ("add", "sub", "rsub")
    makes_new_memory = True

    def apply(self, *xs: Tensor) -> Tensor:
        """Add."""
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total

    def trace(self, builder: Builder, call: Call) -> str:
        """Write a sum of two values, or an affine node if one is a constant."""
        left, right, alpha = call["self"], call["other"], call.get("alpha", 1)
        if call.name == "rsub":
            left, right = right, left
        sign = alpha if call.name == "add" else -alpha
        if isinstance(left, Ref) and isinstance(right, Ref):
            if builder.shapes[left] != builder.shapes[right]:
                raise Refused("adds activations of different shapes", "reshape both to the same shape first")
            second = right if sign == 1 else write_affine(builder, right, builder.shapes[right], scale=float(sign))
            return builder.add(self.name, (left, second), call.shape)
        if isinstance(left, Ref):
            return write_affine(builder, left, call.shape, shift=_times(right, sign))
        return write_affine(builder, reference(right), call.shape, scale=float(sign), shift=left)

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output if it is the same for all inputs."""
        first = factors[0]
        same = all(f is not None and first is not None and torch.equal(f, first) for f in factors)
        return ({}, first) if same else None

    def to_inputs(self, at: NodeContext, value: Tensor) -> Tensor:
        """The same value: a factor applies to all terms, an offset to one of them."""
        return value

    def synapses(self, at: NodeContext) -> Synapses:
        """``"add"``."""
        return "add"

    def lower(self, words: Words, node: Node) -> Value:
        """Write no node, because NIR adds the edges that enter a node."""
        return words.sum(node)


def _times(constant: Any, factor: float) -> Any:
    if factor == 1:
        return constant
    return Fixed(constant.value * factor) if isinstance(constant, Fixed) else constant * factor


@built_in
class Concat(Operation):
    """Concatenation; constants, with a batch of one, are expanded to the batch of the other inputs."""

    name = "concat"
    traced_from = ("cat", "stack")

    def apply(self, *xs: Tensor, dim: int) -> Tensor:
        """Concatenate."""
        batch = max(x.shape[0] for x in xs)
        return torch.cat([x if x.shape[0] == batch else x.expand(batch, *x.shape[1:]) for x in xs], dim)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node, after nodes for constants and for the new axis of a stack."""
        dim = call["dim"] % (len(call.shape) + 1)
        if dim == 0:
            raise Refused("concatenates along the batch axis", "concatenate along channels or space")
        names = []
        for tensor in call["tensors"]:
            name = str(tensor) if isinstance(tensor, Ref) else _write_constant(builder, tensor)
            if call.name == "stack":
                old = builder.shapes[name]
                name = write_reshape(builder, name, (*old[: dim - 1], 1, *old[dim - 1 :]))
            if 0 not in builder.shapes[name]:
                names.append(name)
        return builder.add(self.name, tuple(names), call.shape, attributes={"dim": dim})

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Concatenate the factors like the inputs."""
        axis = at.attributes["dim"] - 1
        given = next(factor for factor in factors if factor is not None)
        ones = given.new_ones((1,) * len(at.shape))
        expanded = []
        for factor, shape in zip(factors, at.inputs, strict=True):
            f = ones if factor is None else factor * ones
            expanded.append(f.expand(*f.shape[:axis], shape[axis], *f.shape[axis + 1 :]))
        rest = torch.broadcast_shapes(*(f.select(axis, 0).shape for f in expanded))
        expanded = [f.expand(*rest[:axis], f.shape[axis], *rest[axis:]) for f in expanded]
        return {}, torch.cat(expanded, axis)

    def synapses(self, at: NodeContext) -> Synapses:
        """``"route"``."""
        return "route"

    def lower(self, words: Words, node: Node) -> Value:
        """Write a map for each input that pads its channels with zeros; NIR adds the edges."""
        if node.attributes["dim"] != 1:
            raise NotExpressible("concatenates along a spatial axis")
        sources: list[str] = []
        start = 0
        for i in range(len(node.inputs)):
            value = words.mapped(node, i)
            after = start + value.shape[0]
            padded = value.place(start, node.shape[0] - after)
            sources += words.write(f"{node.name}_{i}", padded).sources
            start = after
        return Value(tuple(sources), node.shape)


def _write_constant(builder: Builder, constant: Fixed) -> str:
    value = one_for_all(constant.value)
    return builder.add("constant", (), tuple(value.shape[1:]), parameters={"value": Fixed(value)})


@built_in
class ConstantTensor(Operation):
    """A tensor that does not depend on the input (``value`` has a batch of one), such as zeros to pad channels with."""

    name = "constant"

    def apply(self, *, value: Tensor) -> Tensor:
        """Return the tensor."""
        return value

    def lower(self, words: Words, node: Node) -> Value:
        """Raise NotExpressible."""
        raise NotExpressible("is a constant")
