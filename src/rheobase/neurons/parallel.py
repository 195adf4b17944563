"""Parallel integrate-and-fire: the neuron of FS-PC, which computes all its spikes at once."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.neurons.neuron import check_threshold
from rheobase.neurons.response import Response, finite_amplitude
from rheobase.neurons.window import WindowNeuron
from rheobase.signals.signal import Signal, along_channels

Order = Literal["last", "first"]


class ParallelIF(WindowNeuron):
    r"""Parallel integrate-and-fire: all spikes from the time-mean z of the current (Hao et al. 2025, FS-PC).

    .. math::
        s[t] = \Big[ \frac{T (z + \psi_{DA}) + \psi}{j} + \Delta b \ge \theta \Big], \qquad j = T - t + 1

    for t = 1..T, and the amplitude of a spike is θ + φ. Multiplied by j, the threshold of step t is j (θ − Δb). So the
    output bias Δb, which is outside the division (DA calibration, Eq. 17), changes the firing threshold to ϑ = θ − Δb,
    while ψ = V0 remains in units of θ. With ϑ > 0 the threshold of a step rises with j, so the spikes are the last ones
    of the window, and their number is

    .. math:: n = \mathrm{clip}(\lfloor (T (z + \psi_{DA}) + \psi) / \vartheta \rfloor, 0, T)

    θ and ψ do not depend on T: ψ is in units of θ, not of θ/T, so at another T the neuron rounds to the nearest of the
    new levels. Calibrated ψ_DA, φ and Δb are valid for one T only, since they correct the errors of T levels.

    Args:
        threshold: θ > 0, [] or [C]; infinity for a silent channel.
        timesteps: T.
        initial_potential: ψ/θ, from 0 to 1; ½ rounds to the nearest level.
        pre: ψ_DA, added to the mean current, [C]; or None.
        post: φ, added to the amplitude, [C]; or None.
        output_bias: Δb < θ, [C]; or None.
        order: ``"last"``, spikes at the end of the window, as in the equation; ``"first"``, at its beginning, as in
            FS-PC's released code (j = t). Their number is the same.

    Example:
        >>> import torch
        >>> from rheobase.signals.signal import Constant
        >>> neuron = ParallelIF(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(Constant(torch.full((1, 1), 0.4)), 4).flatten()
        tensor([0., 0., 1., 1.])
    """

    kind = "parallel"
    trained_threshold = False
    trained_timesteps = False
    settable = ("threshold", "pre", "post", "output_bias")
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
            raise RecipeError(f"is {initial_potential!r}", where="initial_potential", remedy="use a number from 0 to 1")
        self.initial_potential, self.order = initial_potential, order
        self.register_buffer("pre", pre)
        self.register_buffer("post", post)
        self.register_buffer("output_bias", output_bias)
        for value, name, remedy in (
            (self.amplitude, "post", "use φ > −θ"),
            (self.firing_threshold, "output_bias", "use Δb < θ"),
        ):
            if not bool((value > 0).all()):
                raise RecipeError("makes a threshold or an amplitude not positive", where=name, remedy=remedy)

    @staticmethod
    def check_threshold(threshold: Tensor) -> None:
        """Refuse a threshold that is not positive; infinity is allowed, for a silent channel."""
        check_threshold(threshold)

    @property
    def amplitude(self) -> Tensor:
        """θ + φ."""
        return self.threshold if self.post is None else self.threshold + self.post

    @property
    def firing_threshold(self) -> Tensor:
        """ϑ = θ − Δb."""
        return self.threshold if self.output_bias is None else self.threshold - self.output_bias

    @property
    def v0(self) -> float:
        """ψ/θ."""
        return self.initial_potential

    @property
    def fitted(self) -> list[str]:
        """Those of ``pre``, ``post`` and ``output_bias`` that are set."""
        return [name for name in ("pre", "post", "output_bias") if getattr(self, name) is not None]

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Any T before calibration of ``pre``, ``post`` or ``output_bias``; afterwards only the calibrated T."""
        if timesteps != nominal and self.fitted:
            return f"its {', '.join(self.fitted)} were calibrated for T = {self.timesteps}"
        return super().check_timesteps(timesteps, nominal)

    def response(self, steps: int) -> Response:
        """⌊(T (z + ψ_DA) + ψ)/ϑ⌋ with (θ + φ)/T per spike; 0 for a silent channel."""
        offset = self.initial_potential * self.threshold
        if self.pre is not None:
            offset = offset + steps * self.pre
        silent, firing = self.threshold.isinf(), self.firing_threshold
        gain, offset = torch.where(silent, 0.0, steps / firing), torch.where(silent, 0.0, offset / firing)
        return Response(gain, offset, 0, steps, finite_amplitude(self.amplitude) / steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """V0 and accumulated input in units of ϑ, less the number of spikes."""
        response = self.response(steps)
        gain, offset = (along_channels(torch.as_tensor(v), current.dim()) for v in (response.gain, response.offset))
        return current.double() * gain + offset - spikes

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """Compare the accumulated input with the threshold of every step."""
        z = signal.mean()
        accumulated = self.response(steps).accumulated(z)
        thresholds = range(steps, 0, -1) if self.order == "last" else range(1, steps + 1)  # j, in units of ϑ
        spikes = torch.stack([accumulated >= j for j in thresholds]).to(z.dtype)
        return spikes.mul_(along_channels(finite_amplitude(self.amplitude), z.dim()))

    def config(self) -> dict[str, Any]:
        """``timesteps``, ``initial_potential`` and ``order``."""
        return {"timesteps": self.timesteps, "initial_potential": self.initial_potential, "order": self.order}
