"""The parallel neuron as a trainable activation: the same arithmetic, with a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rheobase.neurons import ParallelIF
from rheobase.signals import along_channels

Surrogate = Literal["straight_through", "rectangular"]


class DAQCFS(nn.Module):
    r"""Distribution-aware QCFS with the parameters of a site's parallel neurons (DA calibration, Eqs. 4 and 17).

    .. math::
        a = \frac{\theta + \phi}{T} n, \qquad n = \mathrm{clip}(\lfloor u \rfloor, 0, T),
        \qquad u = \frac{(z + \psi_{DA}) T + \psi}{\theta - \Delta b}

    u is the accumulated input in units of the threshold. The gradient of n by u is either straight-through, 1 for
    ½ < u < T + ½ (QCFS: 0 < z < θ), or a rectangle of unit slope for each step, Σ 1/j over the steps j = 1..T with
    |u/j − 1| <= ``band``, where u/j − 1 is the distance of the potential of step j from its threshold, in units of the
    threshold.

    θ and θ + φ are trained by the logarithms of their factors (``threshold_gain``, ``amplitude_gain``), so they stay
    positive, and one learning rate suits all channels. Δb is limited to 0.9 θ, so the threshold θ − Δb stays positive.

    Args:
        neuron: the neurons whose parameters are copied, per channel.
        channels, timesteps: C, T.
        surrogate, band: the gradient, and half of the rectangle's width.
    """

    TRAINED = ("threshold", "pre", "post", "output_bias")
    """Parameters of the neurons that training may change."""
    silent: Tensor

    def __init__(
        self,
        neuron: ParallelIF,
        channels: int,
        timesteps: int,
        surrogate: Surrogate = "straight_through",
        band: float = 0.5,
    ) -> None:
        super().__init__()
        self.timesteps, self.potential = timesteps, neuron.initial_potential
        self.surrogate, self.band = surrogate, band
        silent = neuron.threshold.isinf().expand(channels)
        self.register_buffer("silent", silent.clone())

        def parameter(value: Tensor | None, default: float) -> nn.Parameter:
            filled = torch.full_like(neuron.threshold, default) if value is None else value
            return nn.Parameter(torch.where(silent, default, filled.expand(channels)).detach().clone())

        self.threshold = parameter(neuron.threshold, 1.0)
        self.pre = parameter(neuron.pre, 0.0)
        self.post = parameter(neuron.post, 0.0)
        self.output_bias = parameter(neuron.output_bias, 0.0)
        self.threshold_gain, self.amplitude_gain = parameter(None, 0.0), parameter(None, 0.0)

    def forward(self, z: Tensor) -> Tensor:
        """``z``: [B, C, ...]."""
        theta = self.threshold * self.threshold_gain.exp()
        firing = theta - self.output_bias.minimum(_LARGEST_BIAS * theta)
        scale = torch.where(self.silent, 0.0, self.timesteps / firing)
        offset = torch.where(self.silent, 0.0, (self.timesteps * self.pre + self.potential * theta) / firing)
        amplitude = (self.threshold + self.post) * self.amplitude_gain.exp()
        unit = torch.where(self.silent, 0.0, amplitude / self.timesteps)
        return _Staircase.apply(z, scale, offset, unit, self.timesteps, self.surrogate, self.band)

    @staticmethod
    def trained(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """``threshold``, ``pre``, ``post`` and ``output_bias`` of the neurons, [C], from a network's state dict."""
        part = {name: state[f"{prefix}.{name}"] for name in (*DAQCFS.TRAINED, "threshold_gain", "amplitude_gain")}
        theta = part["threshold"] * part["threshold_gain"].exp()
        post = part["post"]
        # without trained gains, keep φ bit for bit: a sum and a difference would round it, and report a change
        if bool(part["threshold_gain"].any()) or bool(part["amplitude_gain"].any()):
            post = (part["threshold"] + post) * part["amplitude_gain"].exp() - theta
        bias = part["output_bias"].minimum(_LARGEST_BIAS * theta)
        return {"threshold": theta, "pre": part["pre"], "post": post, "output_bias": bias}


_LARGEST_BIAS = 0.9
"""Upper limit of Δb, in units of θ."""


class _Staircase(torch.autograd.Function):
    """w · clip(⌊m z + c⌋, 0, T) with m, c, w of shape [C]; one autograd node, because memory traffic dominates."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        scale: Tensor,
        offset: Tensor,
        unit: Tensor,
        timesteps: int,
        surrogate: Surrogate,
        band: float,
    ) -> Tensor:
        ctx.save_for_backward(z, scale, offset, unit)
        ctx.settings = timesteps, surrogate, band
        return _accumulated(z, scale, offset).floor_().clamp_(0, timesteps).mul_(along_channels(unit, z.dim()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        z, scale, offset, unit = ctx.saved_tensors
        timesteps, surrogate, band = ctx.settings
        by_z, by_scale, by_offset, by_unit = (None,) * 4
        others = [d for d in range(z.dim()) if d != 1]
        accumulated = _accumulated(z, scale, offset)
        if ctx.needs_input_grad[3]:
            by_unit = (accumulated.floor().clamp_(0, timesteps) * gradient).sum(others)
        if surrogate == "straight_through":
            slope = ((accumulated > 0.5) & (accumulated < timesteps + 0.5)) * gradient
        else:
            slope = torch.zeros_like(accumulated)
            for j in range(1, timesteps + 1):
                slope.add_(((accumulated - j).abs_() <= band * j).to(accumulated.dtype), alpha=1 / j)
            slope *= gradient
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            along = slope.sum(others)
            by_scale, by_offset = (slope * z).sum(others) * unit, along * unit
        if ctx.needs_input_grad[0]:
            by_z = slope.mul_(along_channels(scale * unit, z.dim()))
        return by_z, by_scale, by_offset, by_unit, None, None, None


def _accumulated(z: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return (z * along_channels(scale, z.dim())).add_(along_channels(offset, z.dim()))
