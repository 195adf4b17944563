"""The firing rule: how many spikes a membrane potential gives, for any alphabet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rheobase.core.checks import check_choice

Firing = Literal["floor", "truncate"]
"""When a neuron takes back a spike: as soon as the potential is negative, or only at -θ and below."""


@dataclass(frozen=True)
class FiringRule:
    r"""The number of spikes k of one step, for a potential u in units of θ, x = u/θ.

    ``floor``: k is the number of the alphabet that is nearest to x − ½, the larger one of two. For an alphabet without
    gaps this is :math:`\mathrm{clip}(\lfloor x \rfloor, k_{min}, k_{max})`, which keeps the potential in [0, θ) as long
    as no value is clipped, so that the net count is the floor of the accumulated input at every step.

    ``truncate``: :math:`\mathrm{clip}(\mathrm{trunc}(x), k_{min}, k_{max})`, for alphabets without gaps: a negative
    spike needs a potential of −θ (Wang et al. 2022, "Signed neuron with memory").

    If the neuron remembers the net number n of spikes that it has emitted, it takes back only what it has emitted: k is
    the smallest number of the alphabet that is at least −n, if the rule gives a smaller one.

    Attributes:
        values: the alphabet, in rising order.
        rounding: ``floor`` or ``truncate``.
    """

    values: tuple[int, ...] = (0, 1)
    rounding: Firing = "floor"

    def __post_init__(self) -> None:
        check_choice(self.rounding, get_args(Firing), "firing")

    @property
    def consecutive(self) -> bool:
        """True if the alphabet has no gaps."""
        return self.values[-1] - self.values[0] == len(self.values) - 1

    @property
    def edges(self) -> tuple[tuple[float, int], ...]:
        """(x, rise) for each x at which the count rises, and by how much: where a surrogate gradient acts."""
        if self.rounding == "truncate":
            return tuple((float(k + 1 if k >= 0 else k), 1) for k in self.values[:-1])
        pairs = zip(self.values, self.values[1:], strict=False)
        return tuple(((low + high + 1) / 2, high - low) for low, high in pairs)

    def __call__(self, potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
        """k, in newly allocated memory.

        Args:
            potential: u, [B, C, ...].
            threshold: θ, broadcastable to ``potential``; infinite for silent channels.
            sent: n, the net number of spikes emitted before, or None.
        """
        least, most = self.values[0], self.values[-1]
        if self.values == (0, 1):
            return (potential >= threshold).to(potential.dtype)
        x = potential / threshold
        if self.rounding == "truncate":
            spikes = x.trunc().clamp(least, most)
        elif self.consecutive:
            spikes = x.floor().clamp(least, most)
        else:
            spikes = torch.full_like(x, least)
            for edge, rise in self.edges:
                spikes.add_(x >= edge, alpha=rise)
        if sent is None or least >= 0:
            return spikes
        if self.consecutive:
            return torch.maximum(spikes, -sent)
        allowed = torch.full_like(x, least)
        for low, high in zip(self.values, self.values[1:], strict=False):
            if low < 0:
                allowed.add_(-sent > low, alpha=high - low)
        return torch.maximum(spikes, allowed)
