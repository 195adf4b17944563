"""Temporal-switch coding: a value is the time between two spikes, of which the first switches on and the second off."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.neurons.neuron import Neuron, State, check_threshold
from rheobase.neurons.response import Alphabet, Response, finite_amplitude


class TemporalSwitch(Neuron):
    r"""A constant value x as a switch that is on for the first |k| of T steps, with the sign of x.

    .. math:: k = \mathrm{clip}(\lfloor T x / \theta + 1/2 \rfloor, -T, T), \qquad s[t] = \mathrm{sign}(k) \, [t < |k|]

    (the input coding of Han & Roy 2020, "Deep spiking neural network: energy efficiency through time based coding",
    TSC). Two events, one at step 0 and one of the other sign at step |k|, carry the value; a synapse adds its weight at
    every step in between. ``s[t]`` is 1 at every step at which the switch is on, so the additions are what is counted.
    The time-mean output is θk/T.

    Args:
        threshold: θ > 0, [] or [C], the largest value; infinity for a silent channel.
        timesteps: T.

    Example:
        >>> import torch
        >>> from rheobase.signals.signal import Constant
        >>> neuron = TemporalSwitch(torch.tensor(1.0), timesteps=4)
        >>> neuron.spike_train(Constant(torch.tensor([[0.5, -0.75]])), 4).values[:, 0].T
        tensor([[ 1.,  1.,  0.,  0.],
                [-1., -1., -1., -0.]])
    """

    kind = "temporal_switch"
    closed_form = True
    trained_timesteps = False
    settable = ("threshold",)
    alphabet = Alphabet.signed(1)
    threshold: Tensor

    def __init__(self, threshold: Tensor, timesteps: int) -> None:
        super().__init__()
        check_threshold(threshold)
        self.register_buffer("threshold", threshold)
        self.timesteps: int = timesteps

    @property
    def amplitude(self) -> Tensor:
        """θ."""
        return self.threshold

    @property
    def v0(self) -> float:
        """½: it rounds to the nearest."""
        return 0.5

    def response(self, steps: int) -> Response:
        """Rounding to the nearest."""
        gain = torch.where(self.threshold.isinf(), 0.0, steps / self.threshold)
        return Response(gain, 0.5, -steps, steps, finite_amplitude(self.threshold) / steps)

    def config(self) -> dict[str, Any]:
        """``timesteps``."""
        return {"timesteps": self.timesteps}

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Refuse another T: the code is for one."""
        return None if timesteps == nominal else f"its code is for T = {nominal}"

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """No state."""
        return ()

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Whether the switch is on at step ``t``."""
        count = self.response(self.timesteps).count(current)
        return count.sign() * (count.abs() > t).to(count.dtype), state

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """θk/T."""
        return self.response(steps).mean(current, overwrite=overwrite)
