"""A mixture of the clipped ReLU and QCFS (SlipReLU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import Activation, Bounds, built_in
from rheobase.activations.staircase import QCFS, staircase
from rheobase.core.errors import ModelError, TraceError
from rheobase.signals.signal import along_channels


class SlipReLU(QCFS):
    r"""A mixture of the clipped ReLU and QCFS, with a trained θ that both share.

    .. math:: a = s \, \mathrm{clip}(z, 0, \theta)
        + (1 - s) \frac{\theta}{L} \, \mathrm{clip}(\lfloor zL / \theta + 1/2 \rfloor, 0, L)

    (Jiang et al. 2023, "A unified optimization framework of ANN-SNN conversion", with the shifts 0 and ½). s = 0 is
    QCFS. The gradients are those of :class:`rheobase.activations.Staircase`, ∂a/∂θ for 0 < z <= θ times 1 − s.

    Args:
        levels: L >= 1.
        threshold: initial θ > 0; a number, or a tensor [C] with one per channel.
        slip: s, from 0 to 1.

    Raises:
        ModelError: if an argument is out of its range.

    Example:
        >>> import torch
        >>> SlipReLU(levels=4, threshold=1.0)(torch.tensor([[-1.0, 0.1, 0.2, 0.6, 3.0]])).detach()
        tensor([[0.0000, 0.0500, 0.2250, 0.5500, 1.0000]])
    """

    def __init__(self, levels: int, threshold: float | Tensor = 1.0, slip: float = 0.5) -> None:
        super().__init__(levels, threshold)
        if not 0 <= slip <= 1:
            raise ModelError(f"is {slip!r}", where="slip", remedy="use a number from 0 to 1")
        self.slip = float(slip)

    def forward(self, z: Tensor) -> Tensor:
        """``z``: [B, C, ...]."""
        if torch.compiler.is_exporting():
            remedy = "convert the network that rb.quantise returned, unchanged"
            raise TraceError("cannot be traced again", where="SlipReLU", remedy=remedy)
        clipped = torch.minimum(z.relu(), along_channels(self.threshold, z.dim()))
        return self.slip * clipped + (1 - self.slip) * super().forward(z)

    def site(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The mixture."""
        attributes, tensors = super().site()
        return {"activation": "slip", "levels": attributes["levels"], "slip": self.slip}, tensors

    def extra_repr(self) -> str:
        """Levels and s, for ``print(model)``."""
        return f"levels={self.levels}, slip={self.slip}"


@built_in
class SlipFunction(Activation):
    """The function of :class:`SlipReLU` at a site: levels and s are attributes of the node, θ is a tensor."""

    kind = "slip"

    def apply(
        self, x: Tensor, *, overwrite: bool = False, threshold: Tensor, levels: int, slip: float, **arguments: Any
    ) -> Tensor:
        """``x``: [B, C, ...]."""
        clipped = torch.minimum(x.relu(), along_channels(threshold, x.dim()))
        return slip * clipped + (1 - slip) * staircase(x, threshold=threshold, levels=levels)

    def bounds(self, **attributes: Any) -> Bounds:
        """From 0 to the trained θ."""
        return Bounds()
