"""The neuron that fires all its spikes at once: a ladder of thresholds over the mean of its current."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.neurons.window import WindowNeuron
from rheobase.signals.signal import Signal, along_channels

Order = Literal["last", "first"]


class ParallelIF(WindowNeuron):
    r"""Parallel integrate-and-fire: the whole train from the time-mean z of the current (Hao et al. 2025, FS-PC).

    .. math::
        s[t] = \Big[ \frac{T (z + \psi_{DA}) + \psi}{j} + \Delta b \ge \theta \Big], \qquad j = T - t + 1

    for t = 1..T, and a spike emits θ + φ. Multiplied by j, rung j of the ladder stands at j (θ − Δb): an output bias
    outside the division (DA calibration, Eq. 17) is a firing threshold ϑ = θ − Δb of its own, while ψ = V0 stays a part
    of θ. With ϑ > 0 rungs rise with j, so the spikes are the last ones of the window, and their number is

    .. math:: n = \mathrm{clip}(\lfloor (T (z + \psi_{DA}) + \psi) / \vartheta \rfloor, 0, T)

    Nothing here is bound to one T: ψ is a part of θ, not of θ/T, so at another T the neuron rounds to the nearest of
    other levels. Values of ψ_DA, φ and Δb are: they make up for the errors that T levels make.

    Args:
        threshold: θ > 0, [] or [C]; infinity for a channel that must stay silent.
        timesteps: T.
        initial_potential: ψ/θ, from 0 to 1; ½ rounds to the nearest.
        pre: ψ_DA, added to the mean current, [C]; or None.
        post: φ, added to what a spike emits, [C]; or None.
        output_bias: Δb < θ, [C]; or None.
        order: spikes at the end of the window, as the ladder above has them, or at its beginning, as FS-PC's released
            code has them (j = t). Their number is the same.

    Example:
        >>> import torch
        >>> from rheobase.signals.signal import Constant
        >>> neuron = ParallelIF(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(Constant(torch.full((1, 1), 0.4)), 4).flatten()
        tensor([0., 0., 1., 1.])
    """

    kind = "parallel"
    recalibrates = True
    pre: Tensor | None
    post: Tensor | None
    output_bias: Tensor | None

    def __init__(
        self,
        threshold: Tensor,
        timesteps: int,
        initial_potential: float = 0.5,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        output_bias: Tensor | None = None,
        order: Order = "last",
    ) -> None:
        super().__init__(threshold, timesteps)
        if not 0 <= initial_potential <= 1:
            raise RecipeError(f"is {initial_potential}", where="initial_potential", remedy="use a part of θ, 0 to 1")
        self.initial_potential, self.order = initial_potential, order
        self.register_buffer("pre", pre)
        self.register_buffer("post", post)
        self.register_buffer("output_bias", output_bias)
        for value, name, remedy in (
            (self.amplitude, "post", "φ must exceed −θ"),
            (self.firing_threshold, "output_bias", "Δb must stay below θ"),
        ):
            if not bool((value > 0).all()):
                raise RecipeError("leaves a channel a threshold that is not positive", where=name, remedy=remedy)

    @staticmethod
    def check_threshold(threshold: Tensor) -> None:
        """Positive; infinity is a silent channel."""
        if not bool((threshold > 0).all()):
            raise RecipeError("must be positive and not NaN", where="threshold", remedy="calibrate it on real images")

    @property
    def amplitude(self) -> Tensor:
        """θ + φ."""
        return self.threshold if self.post is None else self.threshold + self.post

    @property
    def firing_threshold(self) -> Tensor:
        """ϑ = θ − Δb."""
        return self.threshold if self.output_bias is None else self.threshold - self.output_bias

    @property
    def potential(self) -> float:
        """ψ/θ."""
        return self.initial_potential

    @property
    def calibrated(self) -> list[str]:
        """What of it was fitted to one T."""
        return [name for name in ("pre", "post", "output_bias") if getattr(self, name) is not None]

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Any T; once calibrated, that T."""
        if timesteps != nominal and self.calibrated:
            return f"its {', '.join(self.calibrated)} were calibrated for T = {self.timesteps}"
        return super().check_timesteps(timesteps, nominal)

    def line(self, steps: int) -> tuple[Tensor, Tensor]:
        """(m, c), [] or [C], of the drive m z + c: what has come in, in units of ϑ; 0 for a silent channel."""
        theta, firing = self.threshold, self.firing_threshold
        offset = self.initial_potential * theta
        if self.pre is not None:
            offset = offset + steps * self.pre
        silent = theta.isinf()
        return torch.where(silent, 0.0, steps / firing), torch.where(silent, 0.0, offset / firing)

    def worth(self) -> Tensor:
        """θ + φ, and 0 for a silent channel: finite, to multiply with."""
        return torch.where(self.threshold.isinf(), 0.0, self.amplitude)

    def count(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """n for a mean current z [B, C, ...], floats with whole values."""
        scale, offset = (along_channels(value, current.dim()) for value in self.line(steps))
        drive = current.mul_(scale) if overwrite else current * scale
        return drive.add_(offset).floor_().clamp_(0, steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """What has come in, in units of ϑ, less n."""
        scale, offset = (along_channels(value, current.dim()) for value in self.line(steps))
        return current.double() * scale + offset - spikes

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """(θ + φ) n/T for a mean current z, [B, C, ...]."""
        return self.count(current, steps, overwrite=overwrite).mul_(along_channels(self.worth() / steps, current.dim()))

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """Every rung of the ladder against the same drive."""
        z = signal.mean()
        scale, offset = (along_channels(value, z.dim()) for value in self.line(steps))
        drive = (z * scale).add_(offset)
        rungs = range(steps, 0, -1) if self.order == "last" else range(1, steps + 1)
        spikes = torch.stack([drive >= j for j in rungs]).to(z.dtype)
        return spikes.mul_(along_channels(self.worth(), z.dim()))

    def config(self) -> dict[str, Any]:
        """All but the tensors."""
        return {"timesteps": self.timesteps, "initial_potential": self.initial_potential, "order": self.order}
