"""The contract of operations on numbers, which are not affine, and what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.core.errors import ModelError
from rheobase.graph.node import Node
from rheobase.graph.operations.operation import NodeContext, Operation
from rheobase.graph.operations.select import write_constant
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Refused, one_for_all, reference

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


class OnNumbers(Operation):
    r"""Base class of operations that are not affine: they compute on numbers, not on spikes.

    In a simulation such a node computes at every step, on the running means of its inputs. It gives

    .. math:: out[t] = t \, f(\bar x_t) - (t - 1) \, f(\bar x_{t-1}), \qquad \bar x_t = \frac{1}{t} \sum_{s=1}^{t} x[s]

    so that after every step the time-mean of its values is exactly :math:`f(\bar x_t)`. Neurons after it turn it into
    spikes. Its state is the sum of each input so far and :math:`t f(\bar x_t)`. In closed form and in the analog
    network it is f. A network has such nodes only if the caller allows them (``nonlinear="numbers"``).

    ``traced_from`` names calls that no affine operation is traced from, or that one may refuse.
    """

    affine = False
    makes_new_memory = True

    @abstractmethod
    def work(self, at: NodeContext) -> int:
        """Number of elementary operations (multiplications, additions, functions of a number) for one image."""

    def lower(self, words: Words, node: Node) -> Value:
        """Refuse: a NIR graph holds neurons and affine nodes."""
        raise NotExpressible(f"computes on numbers ({function_of(node)})")


def per_image(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of a batch, image by image on a CPU, so that the bits of an image do not depend on its batch.

    Kernels on a CPU compute most elements of a buffer by vectors and the last ones by themselves, which rounds
    exponentials and sums differently. With gradients the batch is computed at once.
    """
    rows = len(inputs[0])
    if inputs[0].device.type != "cpu" or any(x.requires_grad for x in inputs) or rows == 1:
        return function(*(x.contiguous() for x in inputs))
    return torch.cat([function(*(x[i : i + 1].contiguous() for x in inputs)) for i in range(rows)])


def function_of(node: Node) -> str:
    """Name of the function that a node on numbers computes, for people."""
    names = {"slopes": "leaky ReLU", "product": "matrix product"}
    return str(node.attributes.get("function", names.get(node.operation, node.operation)))


def check_finite(node: Node, value: Tensor) -> None:
    """Raise a ModelError if a node on numbers gives NaN or infinite values, as a logarithm does at a mean of 0."""
    if not bool(torch.isfinite(value).all()):
        raise ModelError(
            f"computes {function_of(node)}, which is NaN or infinite for the time-mean of its input",
            where=node.origin or node.name,
            remedy="bound its input in the network, as in log(x + 1e-3)",
        )


def operands(builder: Builder, call: Call, arguments: Sequence[str]) -> tuple[str, ...]:
    """The nodes of operands [B, ...] that are broadcast against each other."""
    rank = len(call.shape) + 1
    found = tuple(operand(builder, call[argument], rank) for argument in arguments)
    if any(len(builder.shapes[name]) + 1 != rank for name in found):
        raise Refused("combines values with different numbers of axes", "give both the same axes")
    return found


def operand(builder: Builder, value: Any, rank: int) -> str:
    """The node of an operand with ``rank`` axes; a constant, such as a learned query, becomes one."""
    if not isinstance(value, Fixed | int | float):
        return reference(value)
    tensor = torch.as_tensor(value.value if isinstance(value, Fixed) else value, dtype=builder.dtype)
    return write_constant(builder, one_for_all(tensor.reshape((1,) * (rank - tensor.dim()) + tensor.shape)))


def known(place: Any, function: str, names: Sequence[str]) -> Callable[..., Tensor]:
    """The function with this name; a file may name no other than these."""
    if function not in names:
        raise ModelError(f"is {function!r}", where="function of a node on numbers", remedy=f"use {', '.join(names)}")
    found: Callable[..., Tensor] = getattr(place, function)
    return found


def check_axis(call: Call) -> int:
    """The axis ``dim`` of a call, counted from the front; refused if it is the batch."""
    axis = int(call["dim"]) % (len(call.shape) + 1)
    if axis == 0:
        raise Refused("computes over the images of the batch", "compute over channels or space only")
    return axis
