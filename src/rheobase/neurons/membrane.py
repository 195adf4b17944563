"""The common step of neurons with a membrane potential: integrate, fire, reset by subtraction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.neurons.firing import Firing, FiringRule
from rheobase.neurons.fused import Rule, fire_train
from rheobase.neurons.neuron import Neuron, State, check_threshold, even_mean
from rheobase.neurons.response import Response, finite_amplitude
from rheobase.neurons.surrogate import fire_with_gradient
from rheobase.signals.signal import Signal, SpikeTrain, along_channels, step_by_step


class SoftResetNeuron(Neuron):
    r"""The common part of neurons that integrate their current, fire, and reset by subtraction, in any units.

    A subclass declares its ``alphabet``, and may choose how it ``fires``
    (:class:`rheobase.neurons.firing.FiringRule`) or define the number of spikes for a potential itself (:meth:`count`).
    The potential is the first tensor of the state.
    """

    has_membrane = True
    fires: Firing = "floor"
    """How a potential becomes a number of the alphabet."""
    remembers: bool = False
    """True if the neuron takes back no more spikes than it has emitted: their net number is then the second tensor of
    the state, and never negative."""
    threshold: Tensor
    bias: Tensor | None

    @property
    def rule(self) -> FiringRule:
        """The firing rule: the alphabet, and how a potential becomes a number of it."""
        return FiringRule(self.alphabet.values, self.fires)

    def count(self, potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
        """k, the number of spikes for a potential u.

        Args:
            potential: u, [B, C, ...].
            threshold: θ, broadcastable to ``potential``; infinite for silent channels.
            sent: net number of spikes emitted before, if the neuron ``remembers``; else None.

        Returns:
            Numbers of the alphabet in the potential's dtype, in newly allocated memory.
        """
        return self.rule(potential, threshold, sent)

    @property
    def fires_at_threshold(self) -> bool:
        """True for one spike at θ and above, by the rule of this class."""
        own = type(self)
        plain = own.count is MembraneNeuron.count and own.spikes_at is MembraneNeuron.spikes_at
        return plain and self.rule.values == (0, 1)

    @property
    def _rule(self) -> Rule:
        """:meth:`count` of a subclass, or the rule that it uses, which can be compiled."""
        return self.rule if type(self).count is SoftResetNeuron.count else self.count

    def capacity(self, steps: int) -> tuple[int, int]:
        """No net number below 0 if it ``remembers``."""
        least, most = super().capacity(steps)
        return (0 if self.remembers else least), most

    def potential(self, current: Tensor, state: State, t: int, *, bias: bool = True) -> Tensor:
        """u[t], or v[t−1] + I[t] without the bias."""
        potential = state[0] + current
        if bias and self.bias is not None:
            now = self.bias[t] if self.bias.dim() == 2 else self.bias
            potential = potential - along_channels(now, current.dim())
        return potential

    def spikes_at(self, potential: Tensor, state: State) -> Tensor:
        """k for a potential u."""
        theta = along_channels(self.threshold, potential.dim())
        return self.count(potential, theta, state[1] if self.remembers else None)

    def limited(self, potential: Tensor) -> Tensor:
        """The potential as the neuron can hold it."""
        return potential

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Integrate, fire, subtract."""
        potential = self.limited(self.potential(current, state, t))
        spikes = self.spikes_at(potential, state)
        theta = along_channels(finite_amplitude(self.threshold), potential.dim())
        after: State = (potential - spikes * theta,)
        return spikes, (*after, state[1] + spikes) if self.remembers else after

    # -- work ----------------------------------------------------------------------------------------------------------

    def updates(self, before: int | None, steps: int) -> int:
        """One addition a step to the potential, and one to the net number of spikes if it ``remembers``."""
        return steps * (1 + self.remembers)

    def comparisons(self, before: int | None, steps: int) -> int:
        """⌈log2 N⌉ a step to find one of N numbers of spikes, and one with the net number if it ``remembers``."""
        return steps * (math.ceil(self.alphabet.bits) + self.remembers)

    # -- time ----------------------------------------------------------------------------------------------------------

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """A neuron with a bias for each step runs only for the number of steps it was calibrated for."""
        reason = super().check_timesteps(timesteps, nominal)
        if reason or self.bias is None or self.bias.dim() == 1:
            return reason
        if len(self.bias) == self.steps(timesteps, nominal):
            return None
        return f"its biases were calibrated for T = {len(self.bias)}"


class MembraneNeuron(SoftResetNeuron):
    r"""Base class of neurons that integrate their current, fire, and reset by subtraction (soft reset).

    .. math::
        u[t] = v[t-1] + I[t] - b[t], \qquad k[t] = \mathrm{spikes}(u[t]), \qquad v[t] = u[t] - \theta k[t]

    Args:
        threshold: θ > 0, which a spike subtracts from the potential and adds to the next layer's input; [] or [C];
            infinity for a silent channel.
        initial_potential: V0/θ; [], [C], or one per neuron, [C, ...].
        bias: b, subtracted before firing; [C], the same at every step, or [T, C], or None.
        timesteps: T of this site; None: T of the network.

    Raises:
        RecipeError: if the threshold is not positive, or T is less than 1.
    """

    differentiable = True
    settable = ("threshold", "initial_potential", "bias")
    initial_potential: Tensor

    def __init__(
        self,
        threshold: Tensor,
        initial_potential: Tensor,
        bias: Tensor | None = None,
        timesteps: int | None = None,
    ) -> None:
        super().__init__()
        check_threshold(threshold)
        if timesteps is not None and timesteps < 1:
            raise RecipeError(f"is {timesteps!r}", where="timesteps", remedy="use a whole number from 1")
        self.timesteps = timesteps
        self.register_buffer("threshold", threshold)
        self.register_buffer("initial_potential", initial_potential)
        self.register_buffer("bias", bias)

    @property
    def takes_back(self) -> bool:  # type: ignore[override]
        """True with negative numbers in the alphabet that the rule ``floor`` fires; override it with :meth:`count`."""
        return self.alphabet.least < 0 and self.fires == "floor" and type(self).count is SoftResetNeuron.count

    @property
    def amplitude(self) -> Tensor:
        """θ."""
        return self.threshold

    @property
    def v0(self) -> Tensor:
        """V0/θ."""
        return self.initial_potential

    @property
    def edges(self) -> tuple[tuple[float, int], ...]:
        """(potential in units of θ, rise of the count) where the count rises: where a surrogate gradient acts."""
        return self.rule.edges

    def response(self, steps: int) -> Response | None:
        """⌊(T (z − b) + V0)/θ⌋, clipped to the capacity.

        None if the bias changes over time, V0 is not in [0, θ], the alphabet has gaps, or negative net numbers of
        spikes are rounded towards zero.
        """
        v0 = self.initial_potential
        if not self.rule.consecutive or (self.fires == "truncate" and self.capacity(steps)[0] < 0):
            return None
        if not bool(((v0 >= 0) & (v0 <= 1)).all()) or (self.bias is not None and self.bias.dim() == 2):
            return None
        silent = self.threshold.isinf()
        gain = torch.where(silent, 0.0, steps / self.threshold)
        unit = finite_amplitude(self.threshold) / steps
        if self.bias is None:
            return Response(gain, v0, *self.capacity(steps), unit)
        constant = -self.bias * gain
        offset = v0 + (constant.reshape(-1, *(1,) * (v0.dim() - 1)) if v0.dim() > 1 else constant)
        return Response(gain, offset, *self.capacity(steps), unit, constant=constant)

    @property
    def fitted(self) -> list[str]:
        """``bias``, if it has one."""
        return [] if self.bias is None else ["bias"]

    # -- simulation ----------------------------------------------------------------------------------------------------

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """V0 for every neuron; an expanded view where all neurons of a channel have the same V0."""
        theta = finite_amplitude(along_channels(self.threshold, len(shape)))
        potential = (along_channels(self.initial_potential, len(shape)) * theta).to(like.dtype).expand(shape)
        return (potential, torch.zeros((), dtype=like.dtype, device=like.device).expand(shape))[: 1 + self.remembers]

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        """The same numbers as repeated :meth:`step`; may be compiled, see :func:`rheobase.neurons.set_fusion`."""
        bias = None
        if self.bias is not None:
            steps = len(currents)
            bias = self.bias[t : t + steps] if self.bias.dim() == 2 else self.bias.expand(steps, -1)
        return fire_train(currents, self.threshold, state, bias, self._rule, overwrite)

    def under_constant_current(self, signal: Signal, steps: int) -> SpikeTrain:
        """The spike train for the time-mean of the current, and of a bias that changes over time."""
        if self.bias is None or self.bias.dim() == 1:
            return super().under_constant_current(signal, steps)
        return self.rebuilt(bias=even_mean(self.bias)).under_constant_current(signal, steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """v[T]/θ = V0/θ + (T z − Σ b[t])/θ − N."""
        dims = current.dim()
        theta = along_channels(self.threshold, dims)
        accumulated = steps * current.double()
        if self.bias is not None:
            bias = self.bias.double().sum(0) if self.bias.dim() == 2 else steps * self.bias.double()
            accumulated = accumulated - along_channels(bias, dims)
        residual = along_channels(self.initial_potential, dims) + accumulated / theta - spikes
        return torch.where(theta.isinf(), 0.0, residual)

    def run_with_gradient(self, signal: Signal, steps: int, parameters: Mapping[str, Tensor], width: float) -> Tensor:
        """Simulate with the neuron's firing rule; see :func:`rheobase.neurons.surrogate.fire_with_gradient`."""
        return fire_with_gradient(
            step_by_step(signal, steps),
            parameters.get("threshold", self.threshold),
            parameters.get("initial_potential", self.initial_potential),
            parameters.get("bias", self.bias),
            count=self._rule,
            remembers=self.remembers,
            edges=self.edges,
            width=width,
        )

    def config(self) -> dict[str, Any]:
        """``timesteps``."""
        return {"timesteps": self.timesteps}
