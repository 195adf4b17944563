"""Integrate-and-fire under the time-mean of its current: the neuron of QVM and QAC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import Rounding
from rheobase.core.errors import RecipeError
from rheobase.neurons.response import Response
from rheobase.neurons.surrogate import above_threshold, at_threshold, fire_with_gradient
from rheobase.neurons.window import WindowNeuron
from rheobase.signals.signal import Constant, Signal, along_channels, step_by_step


class ConstantCurrent(WindowNeuron):
    r"""Integrate-and-fire under the time-mean of its current, the same at every step (QVM, section 4.1; QAC, Eq. 14).

    .. math:: u[t] = v[t-1] + z, \qquad s[t] = [u[t] \ge \theta], \qquad v[t] = u[t] - \theta s[t]

    At T = L and with the V0 of the activation's rounding, its time-mean is exactly the quantised activation (QVM,
    Theorems 1 and 2). There is no unevenness error, since the current is constant. The potential is stored as the
    accumulated input and the number of emitted spikes, so that rounding errors do not accumulate over time.

    For 0 ≤ V0 ≤ θ the spike count is that of the closed form. Calibration may set another V0, where it is not: a neuron
    with V0 < 0 may end with too few spikes, and one with V0 > θ fires although z is negative. :meth:`rate` then
    simulates the neuron.

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: T of this site.
        rounding: rounding of the activation that the neuron replaces.
        initial_potential: V0/θ, a number, [] or [C]; default the one that matches the rounding.
        strict: fire only above θ, not at it; default True where V0 = θ, so that no current causes no spike.

    Example:
        >>> from rheobase.signals import Constant
        >>> neuron = ConstantCurrent(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(Constant(torch.full((1, 1), 0.4)), 4).flatten()
        tensor([0., 1., 0., 1.])
    """

    kind = "constant_current"
    settable = ("threshold", "initial_potential")
    differentiable = True
    initial_potential: Tensor | None

    def __init__(
        self,
        threshold: Tensor,
        timesteps: int,
        rounding: Rounding = "round",
        initial_potential: float | Tensor | None = None,
        strict: bool | None = None,
    ) -> None:
        super().__init__(threshold, timesteps, rounding)
        if initial_potential is not None:
            initial_potential = torch.as_tensor(initial_potential, dtype=threshold.dtype, device=threshold.device)
            if not bool(torch.isfinite(initial_potential).all()):
                raise RecipeError("must be finite", where="initial potential", remedy="calibrate with a smaller step")
        self.register_buffer("initial_potential", initial_potential)
        self._strict = bool(torch.all(torch.as_tensor(self.v0) == 1)) if strict is None else strict

    @property
    def v0(self) -> float | Tensor:
        """V0/θ."""
        return super().v0 if self.initial_potential is None else self.initial_potential

    @property
    def strict(self) -> bool:
        """True if it fires only above the threshold, not at it."""
        return self._strict

    def response(self, steps: int) -> Response | None:
        """The staircase of the closed form; None where V0 is outside [0, θ]."""
        v0 = self.initial_potential
        return super().response(steps) if v0 is None or bool(((v0 >= 0) & (v0 <= 1)).all()) else None

    def config(self) -> dict[str, Any]:
        """``timesteps``, ``rounding`` and ``strict``."""
        return {**super().config(), "strict": self._strict}

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """Simulate ``steps`` steps under the time-mean of the signal; returns θ·s, [steps, B, C, ...]."""
        z = signal.mean()
        theta = along_channels(self.threshold, z.dim())
        values = z.new_empty(steps, *z.shape)
        for spikes, value in zip(self._spikes(z, steps), values, strict=True):
            torch.mul(spikes, theta, out=value)
        return values

    def _spikes(self, z: Tensor, steps: int) -> Iterator[Tensor]:
        """s[t] of each step, 0 or 1, [B, C, ...]."""
        total = z * along_channels(steps / self.threshold, z.dim())  # accumulated input after all steps, in units of θ
        offset = self.v0 - 1 if self.strict else self.v0
        if isinstance(offset, Tensor):
            offset = along_channels(offset, z.dim())
        count = torch.zeros_like(z)
        for t in range(steps):
            accumulated = total if t == steps - 1 else total * ((t + 1) / steps)
            spikes = self.reaches(accumulated + offset, count).to(z.dtype)
            count += spikes
            yield spikes

    def run_with_gradient(self, signal: Signal, steps: int, parameters: Mapping[str, Tensor], width: float) -> Tensor:
        """Simulate under the mean current; see :func:`rheobase.neurons.surrogate.fire_with_gradient`."""
        currents = step_by_step(Constant(signal.mean()), steps)
        rule = above_threshold if self.strict else at_threshold
        theta = parameters.get("threshold", self.threshold)
        v0 = torch.as_tensor(parameters.get("initial_potential", self.v0), dtype=theta.dtype, device=theta.device)
        return fire_with_gradient(currents, theta, v0, count=rule, width=width)
