"""Neurons that need their whole input before they emit the first step."""

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


class WaitingNeuron(Neuron):
    """The common part of neurons that need their whole input, in any units: they cannot be run step by step."""

    streams = False
    closed_form = True

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """The empty state: the neuron keeps none between steps."""
        return ()

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Raises a RecipeError: the neuron needs its whole input first."""
        raise RecipeError(
            "waits for its whole input and cannot be run step by step",
            where=f"{self.kind} neuron",
            remedy="run the network with snn(images)",
        )


class WindowNeuron(WaitingNeuron):
    r"""A neuron whose spike count depends on its input only through the time-mean z of the current.

    .. math:: n = \mathrm{clip}(\lfloor z L / \theta + V_0 \rfloor, 0, L)

    with at most L spikes, V0 in units of θ/L, the current of one spike, and the time-mean output θ·n/L. A network of
    such neurons has a closed form (``execution="counts"``). The neuron waits for the last step of its input (a
    barrier).

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: L = T of this site, the number of steps it emits.
        rounding: rounding of the activation that the neuron replaces. V0 is 0 for ``floor``, ½ for ``round``, and 1
            for ``ceil``, which fires only above threshold.
    """

    trained_threshold = True
    timesteps: int
    threshold: Tensor
    rounding: Rounding

    def __init__(self, threshold: Tensor, timesteps: int, rounding: Rounding = "round") -> None:
        super().__init__()
        self.check_threshold(threshold)
        if timesteps < 1:
            raise RecipeError(f"is {timesteps!r}", where="timesteps", remedy="use a whole number from 1")
        self.register_buffer("threshold", threshold)
        self.timesteps, self.rounding = timesteps, rounding

    @staticmethod
    def check_threshold(threshold: Tensor) -> None:
        """Refuse a threshold that is not positive and finite: training has then diverged."""
        if not bool((threshold > 0).all()) or not bool(torch.isfinite(threshold).all()):
            raise RecipeError(
                "must be positive and finite",
                where="threshold",
                remedy="load a checkpoint from before the training diverged",
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
        """True if it fires only above the threshold, not at it."""
        return self.rounding == "ceil"

    def response(self, steps: int) -> Response | None:
        """The staircase of the class's equation; None where a subclass has another spike count."""
        return Response(steps / self.threshold, self.v0, *self.capacity(steps), self.threshold / steps, self.strict)

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """The time-mean output over ``steps`` steps for a mean current z, [B, C, ...].

        A neuron without a :meth:`response` is simulated under the constant current z.
        """
        response = self.response(steps)
        if response is not None:
            return response.mean(current, overwrite=overwrite)
        counts = SpikeTrain(self.fire(Constant(current), steps), self.amplitude).counts.sum(0)
        return counts * along_channels(finite_amplitude(self.amplitude) / steps, current.dim())

    @abstractmethod
    def fire(self, signal: Signal, steps: int) -> Tensor:
        """Simulate ``steps`` steps for the whole input signal; returns ``amplitude * spikes``, [steps, B, C, ...]."""

    def spike_train(self, signal: Signal, steps: int) -> SpikeTrain:
        """The spike train of ``steps`` steps, for the whole signal that arrives at the site."""
        return SpikeTrain(self.fire(signal, steps), self.amplitude)

    def under_constant_current(self, signal: Signal, steps: int) -> SpikeTrain:
        """The spike train for the time-mean of the signal."""
        return self.spike_train(Constant(signal.mean()), steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor | None:
        """T z/θ + V0/θ − N."""
        start = along_channels(torch.as_tensor(self.v0), current.dim())
        return steps * current.double() / along_channels(self.threshold, current.dim()) + start - spikes

    def config(self) -> dict[str, Any]:
        """``timesteps`` and ``rounding``."""
        return {"timesteps": self.timesteps, "rounding": self.rounding}

    def reaches(self, accumulated: Tensor, count: Tensor) -> Tensor:
        """True if the accumulated input, in units of one spike, is large enough for ``count`` + 1 spikes."""
        return accumulated > count if self.strict else accumulated >= count + 1

    def exceeds(self, accumulated: Tensor, count: Tensor) -> Tensor:
        """True if the accumulated input is too small for ``count`` spikes."""
        return accumulated <= count - 1 if self.strict else accumulated < count

    def emit_count(self, count: Tensor, steps: int) -> Tensor:
        """A spike count [B, C, ...] as a spike train, spikes first: [steps, B, C, ...] in activation units."""
        values = torch.stack([count > t for t in range(steps)]).to(count.dtype)
        return values.mul_(along_channels(self.threshold, count.dim()))
