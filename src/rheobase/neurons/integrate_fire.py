"""Integrate-and-fire with soft reset: the classical neuron of conversion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.neurons.fused import fire_train
from rheobase.neurons.neuron import Neuron, State, even_mean
from rheobase.signals.signal import Signal, along_channels


class IntegrateFire(Neuron):
    r"""Integrate-and-fire neuron with soft reset (reset by subtraction).

    .. math::
        u[t] = v[t-1] + I[t] - b[t], \qquad s[t] = [u[t] \ge \theta], \qquad v[t] = u[t] - \theta s[t]

    Rueckauer et al. 2017, Eqs. 3-5; the initial potential v[-1] = V0 is Bu et al. 2022 (OPI), the per-step bias b is
    Wu et al. 2024 (FTBC, Eq. 4, with the sign mended), a constant one Li et al. 2021 (section 4.2).

    Args:
        threshold: θ > 0, scalar [] or per channel [C]; infinity for a channel that must stay silent.
        initial_potential: V0/θ; [], [C], or one per neuron [C, ...].
        bias: b, subtracted before firing; [C], the same at every step, or [T, C], or None.
        timesteps: T of this site, where it has one of its own.

    Example:
        >>> neuron = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5))
        >>> currents = torch.full((4, 1, 1), 0.6)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([1., 0., 1., 0.])
    """

    kind = "integrate_fire"
    threshold: Tensor
    initial_potential: Tensor
    bias: Tensor | None

    def __init__(
        self,
        threshold: Tensor,
        initial_potential: Tensor,
        bias: Tensor | None = None,
        timesteps: int | None = None,
    ) -> None:
        super().__init__()
        if not bool((threshold > 0).all()):
            raise RecipeError("must be positive and not NaN", where="threshold", remedy="calibrate it on real images")
        if timesteps is not None and timesteps < 1:
            raise RecipeError(f"is {timesteps}", where="timesteps", remedy="use a whole number from 1")
        self.timesteps = timesteps
        self.register_buffer("threshold", threshold)
        self.register_buffer("initial_potential", initial_potential)
        self.register_buffer("bias", bias)

    @property
    def amplitude(self) -> Tensor:
        """θ."""
        return self.threshold

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """V0 for every neuron; a view of one value a channel where all its neurons have the same."""
        theta = along_channels(self.threshold, len(shape))
        potential = along_channels(self.initial_potential, len(shape)) * torch.where(theta.isinf(), 0.0, theta)
        return (potential.to(like.dtype).expand(shape),)

    def integrate(self, current: Tensor, state: State, t: int) -> Tensor:
        """The potential u[t] before firing, [B, C, ...]."""
        (potential,) = state
        potential = potential + current
        if self.bias is not None:
            bias = self.bias[t] if self.bias.dim() == 2 else self.bias
            potential = potential - along_channels(bias, current.dim())
        return potential

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Integrate, fire on ``>=``, subtract θ."""
        potential = self.integrate(current, state, t)
        fired = potential >= along_channels(self.threshold, current.dim())
        return fired.to(current.dtype), (potential - self.emit(fired.to(current.dtype)),)

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        """The same as repeated :meth:`step`, in one pass over memory where a compiler is present."""
        bias = None
        if self.bias is not None:
            steps = len(currents)
            bias = self.bias[t : t + steps] if self.bias.dim() == 2 else self.bias.expand(steps, -1)
        values, potential = fire_train(currents, self.threshold, state[0], bias, overwrite)
        return values, (potential,)

    def under_even_current(self, signal: Signal, steps: int) -> Tensor:
        """With the mean of the biases at every step, where there is one for each."""
        if self.bias is None or self.bias.dim() == 1:
            return super().under_even_current(signal, steps)
        even = IntegrateFire(self.threshold, self.initial_potential, even_mean(self.bias))
        return even.under_even_current(signal, steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """v[T]/θ = V0/θ + (T z − Σ b[t])/θ − N."""
        dims = current.dim()
        theta = along_channels(self.threshold, dims)
        come = steps * current.double()
        if self.bias is not None:
            bias = self.bias.double().sum(0) if self.bias.dim() == 2 else steps * self.bias.double()
            come = come - along_channels(bias, dims)
        left = along_channels(self.initial_potential, dims) + come / theta - spikes
        return torch.where(theta.isinf(), 0.0, left)

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """A neuron with a bias for each step has been calibrated for that many."""
        reason = super().check_timesteps(timesteps, nominal)
        if reason or self.bias is None or self.bias.dim() == 1:
            return reason
        if len(self.bias) == self.steps(timesteps, nominal):
            return None
        return f"its biases were calibrated for T = {len(self.bias)}"

    def config(self) -> dict[str, Any]:
        """``timesteps``."""
        return {"timesteps": self.timesteps}
