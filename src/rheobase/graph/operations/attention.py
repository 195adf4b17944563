"""Attention on numbers: products of two activations, and the softmax between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.operations.contract import PRODUCTS, as_einstein_sum, write_product
from rheobase.graph.operations.numbers import OnNumbers, check_axis, operand, per_image
from rheobase.graph.operations.operation import NodeContext, built_in
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused, one_for_all

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


SOFTMAX = 3
"""Operations of a softmax for each element: exponential, sum, quotient."""


@built_in
class Product(OnNumbers):
    """A matrix product or any other Einstein sum of two activations, such as the scores of attention.

    ``equation`` has the batch as first letter of both terms and of the result.
    """

    name = "product"
    traced_from = PRODUCTS

    def apply(self, a: Tensor, b: Tensor, *, equation: str) -> Tensor:
        return torch.einsum(equation, a, b)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node for the product, and what the call adds to it."""
        return write_product(builder, call, self._write)

    def _write(self, builder: Builder, call: Call) -> str:
        equation, tensors = as_einstein_sum(builder, call)
        terms, _, output = equation.partition("->")
        if len(tensors) != 2 or not all(isinstance(tensor, Ref) for tensor in tensors):
            raise Refused("multiplies more than two values at once", "multiply two at a time")
        if any(term[:1] != terms[:1] for term in (*terms.split(","), output)):
            raise Refused("moves or mixes the batch axis, which must remain axis 0", "keep axis 0 for the batch")
        attributes = {"equation": equation}
        return builder.add(self.name, tuple(tensors), call.shape, label=call.name, attributes=attributes)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        """The last axis, as in the values that attention returns."""
        return len(at.shape)

    def work(self, at: NodeContext) -> int:
        first, second = at.attributes["equation"].partition("->")[0].split(",")
        return prod(dict(zip(first[1:] + second[1:], at.inputs[0] + at.inputs[1], strict=True)).values())


@built_in
class Attention(OnNumbers):
    """Attention (Vaswani et al. 2017, Eq. 1) of q [B, ..., N, d], k [B, ..., M, d] and v [B, ..., M, e].

    ``mask``, [..., N, M], is added to the scores.
    """

    name = "attention"
    traced_from = ("scaled_dot_product_attention",)

    def apply(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None) -> Tensor:
        repeated = q.shape[-3] // k.shape[-3] if q.dim() > 3 else 1  # several heads of q for one of k and v
        if repeated > 1:
            k, v = k.repeat_interleave(repeated, -3), v.repeat_interleave(repeated, -3)
        scores = (q * scale) @ k.transpose(-2, -1)
        return (scores if mask is None else scores + mask).softmax(-1) @ v

    def trace(self, builder: Builder, call: Call) -> str:
        q, k, v = (operand(builder, call[name], len(call.shape) + 1) for name in ("query", "key", "value"))
        mask = call.weight("attn_mask")
        value = None if mask is None else mask.value
        rows, columns = call.shape[-2], builder.shapes[k][-2]
        if call.get("is_causal"):
            value = torch.ones(rows, columns, dtype=torch.bool).tril()
        if value is not None and value.dtype == torch.bool:
            value = torch.zeros(value.shape, dtype=builder.dtype).masked_fill(~value, -torch.inf)
        if value is not None and value.dim() == len(call.shape) + 1:
            value = one_for_all(value)[0]
        if value is not None and bool((value == -torch.inf).all(-1).any()):
            raise Refused("has a mask that leaves a token nothing to attend to", "let every token attend to one")
        given = call.get("scale")
        scale = float(given) if given is not None else builder.shapes[q][-1] ** -0.5
        parameters = {"mask": None if value is None else Fixed(value)}
        return builder.add(self.name, (q, k, v), call.shape, attributes={"scale": scale}, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        return len(at.shape)

    def work(self, at: NodeContext) -> int:
        rows, (columns, last) = prod(at.inputs[0][:-1]), at.inputs[2][-2:]
        return rows * columns * (at.inputs[0][-1] + last + SOFTMAX)


@built_in
class Softmax(OnNumbers):
    """Softmax, or with ``log`` its logarithm, over an axis."""

    name = "softmax"
    traced_from = ("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
    modules = ("Softmax", "LogSoftmax", "Softmax2d")

    def apply(self, x: Tensor, *, dim: int, log: bool) -> Tensor:
        return per_image(lambda one: F.log_softmax(one, dim) if log else F.softmax(one, dim), x)

    def trace(self, builder: Builder, call: Call) -> str:
        attributes = {"dim": check_axis(call), "log": "log" in call.name}
        return builder.add(self.name, (call.input("self"),), call.shape, label=call.name, attributes=attributes)

    def work(self, at: NodeContext) -> int:
        return SOFTMAX * prod(at.shape)
