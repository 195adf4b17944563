"""Firing with a gradient: the simulation that V0 and θ are trained through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.signals.signal import along_channels


def fire_with_gradient(
    currents: Tensor,
    threshold: Tensor,
    initial_potential: Tensor,
    bias: Tensor | None = None,
    *,
    strict: bool = False,
    width: float = 1.0,
) -> Tensor:
    r"""Integrate-and-fire with soft reset over a train, differentiable in everything.

    .. math::
        u[t] = v[t-1] + I[t] - b[t], \qquad s[t] = H(u[t]/\theta - 1), \qquad v[t] = u[t] - \theta s[t]

    Forward, H is the step; backward, it is a ramp of the given width: :math:`H'(x) = [|x| < w/2] / w` (Wu et al. 2018,
    "spatio-temporal backpropagation", the rectangle). The reset is differentiated too, so that at w = 1 what a current
    or potential adds is emitted once, when the potential next comes into the band, and not again. The gradient by θ has
    all its parts: the threshold, the reset, and the amplitude that spikes carry.

    Args:
        currents: I, [T, B, C, ...].
        threshold: θ, [] or [C]; an infinite one emits zeros and has no gradient.
        initial_potential: V0/θ; [], [C], or [C, ...].
        bias: b, [C] or [T, C].
        strict: fire only above θ.
        width: w, in units of θ.

    Returns:
        θ·s, [T, B, C, ...].
    """
    dims = currents.dim() - 1
    theta = along_channels(threshold, dims)
    amplitude = torch.where(theta.isinf(), 0.0, theta)
    theta = torch.where(theta.isinf(), 1.0, theta)
    potential = along_channels(initial_potential, dims) * amplitude
    emitted = []
    for t, current in enumerate(currents):
        potential = potential + current
        if bias is not None:
            potential = potential - along_channels(bias[t] if bias.dim() == 2 else bias, dims)
        fired = potential > theta if strict else potential >= theta
        value = amplitude * _Spike.apply(potential / theta - 1, fired, width)
        potential = potential - value
        emitted.append(value)
    return torch.stack(emitted)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, fired: Tensor, width: float) -> Tensor:
        ctx.width = width
        ctx.save_for_backward(distance.abs() < width / 2)
        return fired.to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (near,) = ctx.saved_tensors
        return gradient * near / ctx.width, None, None
