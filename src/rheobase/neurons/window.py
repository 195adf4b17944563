"""Neurons that wait for all the steps of their input before they emit the first of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, Rounding
from rheobase.activations.staircase import clipped_count
from rheobase.core.errors import RecipeError
from rheobase.neurons.neuron import Neuron, State
from rheobase.signals.signal import Constant, Signal, along_channels


class WindowNeuron(Neuron):
    r"""A neuron whose spike count depends on its input only through the time-mean z of the current.

    .. math:: n = \mathrm{clip}(\lfloor z L / \theta + V_0 \rfloor, 0, L)

    with L spikes at most, V0 in units of what one spike is worth in the input, θ/L, and θ·n/L what it emits on average.
    So a whole network of such neurons can be computed on means alone (``execution="counts"``). It waits for the last
    step of its input: a barrier.

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: L = T of this site: how many steps it emits.
        rounding: of the activation it stands for: V0 is 0 (floor), ½ (round), 1 (ceil, and fires only above threshold).
    """

    streams = False
    timesteps: int
    threshold: Tensor
    rounding: Rounding

    def __init__(self, threshold: Tensor, timesteps: int, rounding: Rounding = "round") -> None:
        super().__init__()
        self.check_threshold(threshold)
        if timesteps < 1:
            raise RecipeError(f"is {timesteps}", where="timesteps", remedy="use a whole number from 1")
        self.register_buffer("threshold", threshold)
        self.timesteps, self.rounding = timesteps, rounding

    @staticmethod
    def check_threshold(threshold: Tensor) -> None:
        """Refuse a threshold that no training leaves behind."""
        if not bool((threshold > 0).all()) or not bool(torch.isfinite(threshold).all()):
            raise RecipeError(
                "must be positive and finite", where="threshold", remedy="load a checkpoint from before it diverged"
            )

    @property
    def amplitude(self) -> Tensor:
        """θ."""
        return self.threshold

    @property
    def potential(self) -> float | Tensor:
        """V0, in units of θ/L; a number, or [] or [C]."""
        return INITIAL_POTENTIAL[self.rounding]

    @property
    def strict(self) -> bool:
        """Whether it fires only above the threshold, not at it."""
        return self.rounding == "ceil"

    @property
    def has_closed_form(self) -> bool:
        """Whether the count is that of the formula above."""
        return True

    def line(self, steps: int) -> tuple[Tensor, Tensor]:
        """(m, c), [] or [C]: n = clip(⌊m z + c⌋, 0, T), or ⌈m z + c⌉ where the neuron fires only above θ."""
        offset = self.potential - 1 if self.strict else self.potential
        return steps / self.threshold, torch.as_tensor(offset, dtype=self.threshold.dtype, device=self.threshold.device)

    def worth(self) -> Tensor:
        """What a spike emits, [] or [C]."""
        return self.amplitude

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """θ·n/T for a mean current z, [B, C, ...]: what the neuron emits on average over ``steps`` steps."""
        count = clipped_count(current, self.threshold, steps, self.potential, self.strict, overwrite=overwrite)
        return count.mul_(along_channels(self.threshold / steps, current.dim()))

    @abstractmethod
    def fire(self, signal: Signal, steps: int) -> Tensor:
        """The simulation, step by step: what arrives -> ``amplitude * spikes``, [steps, B, C, ...]."""

    def under_even_current(self, signal: Signal, steps: int) -> Tensor:
        """What it emits for the mean, held."""
        return self.fire(Constant(signal.mean()), steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """T z/θ + V0/θ − N."""
        start = along_channels(torch.as_tensor(self.potential), current.dim())
        return steps * current.double() / along_channels(self.threshold, current.dim()) + start - spikes

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """A window has no state before it."""
        return ()

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Not possible: it needs the whole input first."""
        raise RecipeError(
            "waits for its whole input and cannot be run step by step",
            where=f"{self.kind} neuron",
            remedy="run the network with snn(images)",
        )

    def config(self) -> dict[str, Any]:
        """``timesteps`` and ``rounding``."""
        return {"timesteps": self.timesteps, "rounding": self.rounding}

    def reaches(self, drive: Tensor, count: Tensor) -> Tensor:
        """Whether ``drive`` (the potential, nothing subtracted, in units of a spike) is worth one more spike."""
        return drive > count if self.strict else drive >= count + 1

    def exceeds(self, drive: Tensor, count: Tensor) -> Tensor:
        """Whether ``count`` spikes are more than ``drive`` is worth."""
        return drive <= count - 1 if self.strict else drive < count

    def emit_count(self, count: Tensor, steps: int) -> Tensor:
        """A count [B, C, ...] as a train, spikes first: [steps, B, C, ...] in activation units."""
        values = torch.stack([count > t for t in range(steps)]).to(count.dtype)
        return values.mul_(along_channels(self.threshold, count.dim()))
