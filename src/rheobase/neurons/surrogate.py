"""Simulation with a surrogate gradient, for training the parameters of neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.neurons.firing import FiringRule
from rheobase.neurons.fused import Rule
from rheobase.signals.signal import along_channels

at_threshold = FiringRule()
"""1 if u ≥ θ, else 0."""


def above_threshold(potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
    """1 if u > θ, else 0."""
    return (potential > threshold).to(potential.dtype)


def fire_with_gradient(
    currents: Tensor,
    threshold: Tensor,
    initial_potential: Tensor,
    bias: Tensor | None = None,
    *,
    count: Rule = at_threshold,
    remembers: bool = False,
    edges: tuple[tuple[float, int], ...] = ((1.0, 1),),
    width: float = 1.0,
) -> Tensor:
    r"""Simulate neurons with soft reset over all steps, with gradients for currents and all parameters.

    .. math::
        u[t] = v[t-1] + I[t] - b[t], \qquad k[t] = K(u[t]/\theta), \qquad v[t] = u[t] - \theta k[t]

    Forward, K is the neuron's rule, a staircase that rises by h at each edge e. Backward, each edge is a ramp of slope
    1/w: :math:`K'(x) = \sum_e [|x - e| < hw/2] / w` (Wu et al. 2018, "spatio-temporal backpropagation", the rectangle).
    The reset is differentiated too: at w = 1 the gradient of a current passes through one spike only, at the first step
    whose potential is within w/2 of an edge. The gradient with respect to θ includes the threshold, the reset and the
    amplitude of the spikes.

    Args:
        currents: I, [T, B, C, ...].
        threshold: θ, [] or [C]; an infinite threshold gives zeros and no gradient.
        initial_potential: V0/θ; [], [C], or [C, ...].
        bias: b, [C] or [T, C].
        count: the rule: number of spikes for a potential.
        remembers: pass the net number of emitted spikes to the rule.
        edges: (e, h), the potentials in units of θ at which the count rises, and by how much.
        width: w, in units of θ.

    Returns:
        θ·k, [T, B, C, ...].
    """
    dims = currents.dim() - 1
    theta = along_channels(threshold, dims)
    amplitude = torch.where(theta.isinf(), 0.0, theta)
    theta = torch.where(theta.isinf(), 1.0, theta)
    potential = along_channels(initial_potential, dims) * amplitude
    sent = torch.zeros_like(currents[0]) if remembers else None
    emitted = []
    for t, current in enumerate(currents):
        potential = potential + current
        if bias is not None:
            potential = potential - along_channels(bias[t] if bias.dim() == 2 else bias, dims)
        with torch.no_grad():
            spikes = count(potential, theta, sent)
            sent = None if sent is None else sent + spikes
        value = amplitude * _Spikes.apply(potential / theta, spikes, edges, width)
        potential = potential - value
        emitted.append(value)
    return torch.stack(emitted)


class _Spikes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, potential: Tensor, spikes: Tensor, edges: tuple[tuple[float, int], ...], width: float
    ) -> Tensor:
        slope = torch.zeros_like(potential, dtype=torch.uint8)
        for edge, rise in edges:
            slope += (potential - edge).abs() < rise * width / 2
        ctx.width = width
        ctx.save_for_backward(slope)
        return spikes.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        (slope,) = ctx.saved_tensors
        return gradient * slope / ctx.width, None, None, None
