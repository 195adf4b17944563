"""Interpolation to another size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.operation import NodeContext, Synapses, built_in
from rheobase.graph.operations.windows import Spatial, sum_over_windows
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

_MODES = {
    **{f"upsample_nearest{n}d": "nearest" for n in (1, 2, 3)},
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
}


@built_in
class Upsample(Spatial):
    """Nearest or (bi-, tri-)linear interpolation to a fixed size."""

    name = "upsample"
    traced_from = tuple(_MODES)
    modules = ("Upsample",)

    def apply(self, x: Tensor, *, size: list[int], mode: str, align_corners: bool | None) -> Tensor:
        """Interpolate."""
        return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)

    def trace(self, builder: Builder, call: Call) -> str:
        """Write one node."""
        attributes = {
            "size": list(call.shape[1:]),
            "mode": _MODES[call.name],
            "align_corners": call.get("align_corners"),
        }
        return builder.add(self.name, (call.input("input", "self"),), call.shape, attributes=attributes)

    def synapses(self, at: NodeContext) -> Synapses:
        """``"route"`` if the mode is nearest, else ``"interpolate"``."""
        return "route" if at.attributes["mode"] == "nearest" else "interpolate"

    def entries(self, x: Tensor, *, size: list[int], mode: str, align_corners: bool | None) -> Tensor:
        """Interpolate with every non-zero factor replaced by 1."""
        if mode == "nearest":
            return self.apply(x, size=size, mode=mode, align_corners=align_corners)

        def along(x: Tensor, axis: int) -> Tensor:
            return F.interpolate(x, size=size[axis], mode="linear", align_corners=align_corners)

        return sum_over_windows(x, len(size), along)

    def lower(self, words: Words, node: Node) -> Value:
        """Raise NotExpressible."""
        raise NotExpressible("is an upsampling")
