"""Normalisations, and reductions that are not linear, on numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.operations.numbers import OnNumbers, known, per_image
from rheobase.graph.operations.operation import OPERATIONS, NodeContext, built_in
from rheobase.graph.trace.call import Call, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder


NORM = 5
"""Operations of a normalisation for each element: mean, square, sum of squares, quotient, weight and bias."""


@built_in
class LayerNorm(OnNumbers):
    """Normalisation over the last ``axes`` axes (Ba et al. 2016); not ``centred``: by the root mean square."""

    name = "layer_norm"
    traced_from = ("layer_norm", "rms_norm", "_fused_rms_norm")
    modules = ("LayerNorm", "RMSNorm")
    trained = ("weight", "bias")

    def apply(
        self,
        x: Tensor,
        *,
        axes: int,
        eps: float,
        centred: bool,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        shape = x.shape[x.dim() - axes :]
        if centred:
            return F.layer_norm(x, shape, weight, bias, eps)
        return F.rms_norm(x, shape, weight, eps)

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        centred = call.name == "layer_norm"
        axes = len(call["normalized_shape"])
        if axes > len(call.shape):
            raise Refused("normalises over the images of the batch", "normalise over channels or space only")
        eps = call.get("eps")
        attributes = {
            "axes": axes,
            "eps": float(torch.finfo(builder.dtype).eps if eps is None else eps),
            "centred": centred,
        }
        parameters = {name: call.weight(name) for name in ("weight", "bias") if name in call}
        return builder.add(self.name, (call.input("input"),), call.shape, attributes=attributes, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """The last axis if that is normalised alone, as in networks of tokens."""
        return len(at.shape) if at.attributes["axes"] == 1 else next((axis for axis in axes if axis is not None), None)

    def work(self, at: NodeContext) -> int:
        return NORM * prod(at.shape)


@built_in
class GroupNorm(OnNumbers):
    """Group normalisation (Wu & He 2018); with a group for each channel, instance normalisation."""

    name = "group_norm"
    traced_from = ("group_norm", "instance_norm")
    modules = ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
    trained = ("weight", "bias")

    def apply(
        self, x: Tensor, *, groups: int, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        return F.group_norm(x, groups, weight, bias, eps)

    def trace(self, builder: Builder, call: Call) -> str:
        if call.name == "instance_norm" and not call["use_input_stats"]:
            raise Refused("normalises by running statistics of each channel", "use batch normalisation")
        groups = call.get("num_groups", call.shape[0])
        parameters = {name: call.weight(name) for name in ("weight", "bias")}
        attributes = {"groups": groups, "eps": float(call["eps"])}
        return builder.add(self.name, (call.input("input"),), call.shape, attributes=attributes, parameters=parameters)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int:
        return 1

    def work(self, at: NodeContext) -> int:
        return NORM * prod(at.shape)


@built_in
class Reduction(OnNumbers):
    """The largest or smallest value, a norm, a deviation or a log-sum-exp over axes of a sample."""

    name = "reduction"
    traced_from = (
        *("amax", "amin", "max", "min", "logsumexp", "std", "var", "std_mean", "var_mean", "linalg_vector_norm"),
    )

    def apply(
        self, x: Tensor, *, function: str, dim: list[int], keepdim: bool, correction: float = 1.0, order: float = 2.0
    ) -> Tensor:
        def reduced(one: Tensor) -> Tensor:
            if function == "norm":
                return torch.linalg.vector_norm(one, order, dim, keepdim)
            options = {"correction": correction} if function in ("std", "var") else {}
            return known(torch, function, self.traced_from)(one, dim, keepdim=keepdim, **options)

        return per_image(reduced, x)

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        if call.name in ("max", "min") and "dim" not in call:
            raise Refused("is the largest or smallest value of all images", "give the axes of one image")
        x = call.input("self")
        rank = len(builder.shapes[x]) + 1
        given = call["dim"]
        dims = [given] if isinstance(given, int) else list(given or range(rank))
        if any(d % rank == 0 for d in dims):
            raise Refused("computes over the images of the batch", "compute over channels or space only")
        function = {"max": "amax", "min": "amin", "linalg_vector_norm": "norm"}.get(call.name, call.name)
        function = function.removesuffix("_mean")
        attributes: dict[str, Any] = {"function": function, "dim": dims, "keepdim": bool(call.get("keepdim"))}
        if function in ("std", "var"):
            correction = call.get("correction", None if call.get("unbiased", True) else 0)
            attributes["correction"] = 1.0 if correction is None else float(correction)
        if function == "norm":
            attributes["order"] = float(call.get("ord", 2.0))
        name = builder.add(self.name, (x,), call.shape, label=call.name, attributes=attributes)
        if call.name in ("max", "min"):  # returns indices too
            refused = Refused("gives the index of the largest or smallest value", "use its values only")
            return name, builder.write_refused((x,), call.shape, call.name, refused)
        if not call.name.endswith("_mean"):
            return name
        mean = {"dim": dims, "keepdim": attributes["keepdim"]}
        return name, builder.add("mean", (x,), call.shape, attributes=mean)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """As for a mean."""
        return OPERATIONS["mean"].channel_axis(at, axes)

    def work(self, at: NodeContext) -> int:
        return prod(at.inputs[0])
