"""Neurons that wait for all the steps of their input before they emit the first of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, Rounding
from rheobase.core.errors import RecipeError
from rheobase.neurons.neuron import Neuron, State
from rheobase.neurons.response import Response, finite_amplitude
from rheobase.signals.signal import Constant, Signal, SpikeTrain, along_channels


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
    closed_form = True
    trained_threshold = True
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
    def v0(self) -> float | Tensor:
        """V0, in units of θ/L; a number, or [] or [C]."""
        return INITIAL_POTENTIAL[self.rounding]

    @property
    def strict(self) -> bool:
        """Whether it fires only above the threshold, not at it."""
        return self.rounding == "ceil"

    def response(self, steps: int) -> Response | None:
        """The formula above; None where a subclass has another count."""
        return Response(steps / self.threshold, self.v0, *self.capacity(steps), self.threshold / steps, self.strict)

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """What the neuron emits on average over ``steps`` steps for a mean current z, [B, C, ...].

        By its response; a neuron without one is simulated under that current.
        """
        response = self.response(steps)
        if response is not None:
            return response.mean(current, overwrite=overwrite)
        counts = SpikeTrain(self.fire(Constant(current), steps), self.amplitude).counts.sum(0)
        return counts * along_channels(finite_amplitude(self.amplitude) / steps, current.dim())

    @abstractmethod
    def fire(self, signal: Signal, steps: int) -> Tensor:
        """The simulation, step by step: what arrives -> ``amplitude * spikes``, [steps, B, C, ...]."""

    def train_of(self, signal: Signal, steps: int) -> SpikeTrain:
        """All steps, for what arrives at the site in all of its steps."""
        return SpikeTrain(self.fire(signal, steps), self.amplitude)

    def under_even_current(self, signal: Signal, steps: int) -> SpikeTrain:
        """What it emits for the time-mean."""
        return self.train_of(Constant(signal.mean()), steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor | None:
        """T z/θ + V0/θ − N."""
        start = along_channels(torch.as_tensor(self.v0), current.dim())
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
