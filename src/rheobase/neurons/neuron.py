"""What every neuron is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rheobase.signals.signal import Signal, TimeSeries, along_channels

State = tuple[Tensor, ...]

SILENT = float("inf")
"""Threshold of a channel that must never fire: no potential reaches it."""


class Neuron(nn.Module, ABC):
    """A layer of neurons at one site: parameters in buffers, state passed in and out.

    Per-channel parameters have shape [C]; scalars have shape []. Currents have shape [B, C, ...] (one step) or
    [T, B, C, ...] (a train). Spikes are counts, 0 or 1 for most neurons; what leaves the site is
    ``amplitude * spikes``, in activation units.
    """

    kind: ClassVar[str]
    streams: ClassVar[bool] = True
    """Whether it emits step t as soon as step t of its input is there; else it waits for the whole input."""
    timesteps: int | None = None
    """T of this site; None: that of the network."""
    recalibrates: ClassVar[bool] = False
    """Whether a neuron with a T of its own gets another by a new calibration; else from a network trained with it."""

    @property
    @abstractmethod
    def amplitude(self) -> Tensor:
        """What one spike adds to the next layer's input, [] or [C], before division by T."""

    @abstractmethod
    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """State before the first step, for currents of ``shape`` = [B, C, ...]; dtype and device of ``like``."""

    @abstractmethod
    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """One time-step: current [B, C, ...] and state before step ``t`` (from 0) -> spikes and the state after."""

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        """Many steps: currents [T, B, C, ...] -> ``amplitude * spikes`` of the same shape, and the state after.

        The same numbers as repeated :meth:`step`; a neuron overrides it to be faster. With ``overwrite`` the spikes may
        be written over the currents.
        """
        spikes = []
        for offset, current in enumerate(currents):
            fired, state = self.step(current, state, t + offset)
            spikes.append(self.emit(fired))
        return torch.stack(spikes), state

    def emit(self, spikes: Tensor) -> Tensor:
        """``amplitude * spikes``; a channel that never fires gives exact zeros, whatever its threshold."""
        amplitude = along_channels(self.amplitude, spikes.dim())
        return torch.where(spikes != 0, amplitude * spikes, 0.0)

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Why it cannot run when the network, converted for T = ``nominal``, runs for ``timesteps``; None if it can.

        Where sites have a T of their own, all are stretched alike, to whole numbers.
        """
        if self.timesteps is None or self.timesteps * timesteps % nominal == 0:
            return None
        return f"its share of {timesteps} steps would be {self.timesteps * timesteps / nominal:g}"

    def steps(self, timesteps: int, nominal: int) -> int:
        """T of this site when the network, converted for T = ``nominal``, runs for ``timesteps``."""
        return timesteps if self.timesteps is None else self.timesteps * timesteps // nominal

    def under_even_current(self, signal: Signal, steps: int) -> Tensor:
        """``amplitude * spikes`` [steps, B, C, ...] for the mean of the current, and of the bias, at every step."""
        current = even_mean(signal.values) if isinstance(signal, TimeSeries) else signal.values
        currents = current.expand(steps, *current.shape)
        return self.run(currents, self.init(current.shape, current))[0]

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor | None:
        """The potential after the last step, in units of θ: what has come in less what spikes took out.

        Args:
            current: its mean, [B, C, ...].
            spikes: how many in all steps, likewise.
            steps: T.

        Returns:
            [B, C, ...], 0 for a silent channel; None where a neuron has no such potential.
        """
        return None

    def internal_steps(self, before: int | None, steps: int) -> int:
        """Steps it works on without input before it emits, for an input of ``before`` steps (None: a held value)."""
        return 0

    def updates(self, before: int | None, steps: int) -> int:
        """Additions to potentials and counters for one input, beside those of the synapses: one a step."""
        return steps

    def comparisons(self, before: int | None, steps: int) -> int:
        """Comparisons with a threshold for one input: one a step."""
        return steps

    def config(self) -> dict[str, Any]:
        """What, beside the buffers, rebuilds the neuron: JSON values for the constructor."""
        return {}


def even_mean(values: Tensor) -> Tensor:
    """Mean over the first axis, summed in float64, so that the mean of equal values is that value to the bit."""
    return values.double().mean(0).to(values.dtype)
