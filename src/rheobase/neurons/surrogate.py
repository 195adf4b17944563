"""Simulation with a surrogate gradient, for training weights and the parameters of neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheobase.neurons.firing import FiringRule
from rheobase.neurons.fused import CHUNK, Layout, Rule, State, fire_train, run_loop
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
    amplitude of the spikes. Where the neuron has nothing to take back, edges of negative spikes have no slope.

    The backward pass is one loop over the steps, which may be compiled (:func:`rheobase.neurons.set_fusion`). It needs
    the potentials and the spikes of all steps: 8 bytes for each neuron and step.

    Args:
        currents: I, [T, B, C, ...].
        threshold: θ, [] or [C]; an infinite threshold gives zeros and no gradient.
        initial_potential: V0/θ; [], [C], or [C, ...].
        bias: b, [C] or [T, C].
        count: the rule: number of spikes for a potential.
        remembers: pass the net number of emitted spikes to the rule.
        edges: (e, h), the potentials in units of θ at which the count rises, and by how much, in rising order.
        width: w, in units of θ.

    Returns:
        θ·k, [T, B, C, ...].
    """
    theta = along_channels(threshold, currents.dim() - 1)
    start = along_channels(initial_potential, currents.dim() - 1) * torch.where(theta.isinf(), 0.0, theta)
    start = start.to(currents.dtype).expand(currents.shape[1:])
    if bias is not None and bias.dim() == 1:
        bias = bias.expand(len(currents), -1)
    fired: Tensor = _Fire.apply(currents, threshold, start, bias, count, remembers, edges, width)
    return fired


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        currents: Tensor,
        threshold: Tensor,
        start: Tensor,
        bias: Tensor | None,
        count: Rule,
        remembers: bool,
        edges: tuple[tuple[float, int], ...],
        width: float,
    ) -> Tensor:
        ctx.layout = layout = Layout.of(currents[0]) or Layout(False)
        potentials = layout.empty(currents) if any(ctx.needs_input_grad) else None
        state = (start, torch.zeros((), dtype=start.dtype, device=start.device).expand_as(start))[: 1 + remembers]
        values, _ = fire_train(currents, threshold, state, bias, count, potentials=potentials)
        ctx.rule = remembers, edges, width
        ctx.save_for_backward(potentials, values, threshold)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        potentials, values, threshold = ctx.saved_tensors
        layout, (remembers, edges, width), shape = ctx.layout, ctx.rule, values.shape
        us, ks, gs = (layout.view(_in_layout(x, layout), 1) for x in (potentials, values, *gradients))
        theta = threshold.expand(shape[2]).reshape(-1, 1)
        found = torch.empty_like(us)
        zeros = torch.zeros_like(us[0])
        net = (ks.sum(0) / torch.where(theta.isinf(), 1.0, theta),) if remembers else ()

        def steps(loop: Callable[..., State]) -> State:
            state: State = (zeros, zeros, *net)
            for end in range(shape[0], 0, -CHUNK):
                part = slice(max(0, end - CHUNK), end)
                state = loop(*(list(x[part].unbind(0)) for x in (found, gs, us, ks)), theta, state)
            return state

        state = run_loop(steps, _backward, remembers, edges, width, elements=2 * us.numel())
        by_potential, by_theta = state[0], state[1].sum((0, 2))
        by_theta = by_theta if threshold.dim() else by_theta.sum()
        by_bias = -found.sum((1, 3)) if ctx.needs_input_grad[3] else None
        by_current = layout.restore(found, shape, 1)
        by_start = layout.restore(by_potential, shape[1:], 0)
        return by_current, by_theta, by_start, by_bias, None, None, None, None


def _backward(
    remembers: bool,
    edges: tuple[tuple[float, int], ...],
    width: float,
    found: list[Tensor],
    gradients: list[Tensor],
    potentials: list[Tensor],
    values: list[Tensor],
    theta: Tensor,
    state: State,
) -> State:
    """The loop over steps, from the last to the first; ``remembers``, ``edges`` and ``width`` are constants of it.

    Args:
        found: T tensors [N, C, S], to write the gradients of the currents to.
        gradients: those of the output θ·k.
        potentials: u.
        values: θ·k.
        theta: [C, 1].
        state: gradient of v after these steps, sum of the gradients of θ, and n after these steps if it ``remembers``.
    """
    by_potential, by_theta, *sent = state
    silent = theta.isinf()
    unit = torch.where(silent, 1.0, theta)
    lows = [-sum(rise for edge, rise in edges[i:] if edge <= 0) for i in range(len(edges))]
    for t in range(len(values) - 1, -1, -1):
        x, k = potentials[t] / unit, values[t] / unit
        if remembers:
            sent = [sent[0] - k]
        slope = torch.zeros_like(x)
        for (edge, rise), low in zip(edges, lows, strict=True):
            near = (x - edge).abs() < rise * width / 2
            if remembers and low < 0:
                near = near & (sent[0] + (low + 0.5) > 0)
            slope = slope + near.to(x.dtype)
        slope = torch.where(silent, 0.0, slope / width)
        gradient = gradients[t] - by_potential
        by_theta = by_theta + gradient * (k - slope * x)
        by_potential = by_potential + gradient * slope
        found[t].copy_(by_potential)
    return (by_potential, by_theta, *sent)


def _in_layout(x: Tensor, layout: Layout) -> Tensor:
    return x if Layout.of(x[0]) == layout else layout.empty(x).copy_(x)
