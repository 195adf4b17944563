"""The quantised activation that learns its number of levels (QAC)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from rheobase.activations.activation import QuantisedActivation, Rounding, check_levels
from rheobase.activations.staircase import StraightThrough
from rheobase.core.errors import ModelError, TraceError

Parametrisation = Literal["n_d", "n_alpha", "d_alpha", "t_alpha"]

PARAMETERS: dict[Parametrisation, tuple[str, str]] = {
    "n_d": ("bits", "step_size"),
    "n_alpha": ("bits", "threshold"),
    "d_alpha": ("step_size", "threshold"),
    "t_alpha": ("steps", "threshold"),
}
"""The two parameters that a site trains (QAC, section 4.2, cases 1 to 4)."""

STEP_RATE = 10
"""Learning rate of t as a factor of the weights' rate: levels of a ResNet-20 converge within a few hundred steps."""


class LearnedStaircase(QuantisedActivation):
    r"""Quantised ReLU that trains its number of steps t and its threshold α (QAC, Eqs. 5 and 7-10).

    .. math:: Q(x) = \frac{\alpha}{t} \, \mathrm{clip}(\lfloor x t / \alpha + 1/2 \rfloor, 0, t)

    with t rounded to the nearest whole number from 1 to ``max_timesteps``. Gradients pass straight through both
    roundings: for 0 <= x <= α, ∂Q/∂x = 1, ∂Q/∂t = −(Q − x)/t and ∂Q/∂α = (Q − x)/α; for x > α, 0, 0 and 1; for x < 0,
    0. The trained parameters are one of four pairs, from which t = 2ⁿ and α = d t follow; the chain rule gives the
    paper's Eqs. 7-10:

    ==================  ===============  ====================  ===========================
    parametrisation     parameters       0 <= x <= α           x > α
    ==================  ===============  ====================  ===========================
    ``"n_d"``           bits, step_size  0, (Q − x)/d          ln 2 · 2ⁿ d, 2ⁿ
    ``"n_alpha"``       bits, threshold  −ln 2 (Q − x),        0, 1
                                         (Q − x)/α
    ``"d_alpha"``       step_size,       (Q − x)/d, 0          0, 1
                        threshold
    ``"t_alpha"``       steps,           −(Q − x)/t,           0, 1
                        threshold        (Q − x)/α
    ==================  ===============  ====================  ===========================

    :func:`rheobase.quantise` with ``rb.QAC`` places these modules at the sites.

    Args:
        parametrisation: the pair of parameters.
        steps: initial t >= 1.
        threshold: initial α > 0; a number, or a tensor [C] with one per channel (not with ``"d_alpha"``, where t would
            then differ between channels).
        max_timesteps: upper bound of t.
        rate: factor of the learning rate of t, relative to ``STEP_RATE``; 0 keeps t fixed.
        matched: scale the learning rates of the other parametrisations such that the first training step changes t and
            α as with ``"t_alpha"``. If False, all parameters have the learning rate of the weights, multiplied by
            ``rate`` for bits and t.

    Raises:
        ModelError: if t is not from 1 to ``max_timesteps``, α is not positive and finite, or the parametrisation is
            unknown.

    Example:
        >>> import torch
        >>> LearnedStaircase("t_alpha", steps=3.8, threshold=1.0)(torch.tensor([[-1.0, 0.1, 0.2, 0.6, 3.0]])).detach()
        tensor([[0.0000, 0.0000, 0.2500, 0.5000, 1.0000]])
    """

    learns_levels = True
    rounding: Rounding = "round"
    stopped: Tensor

    def __init__(
        self,
        parametrisation: Parametrisation,
        steps: float,
        threshold: float | Tensor = 1.0,
        *,
        max_timesteps: int = 32,
        rate: float = 1.0,
        matched: bool = True,
    ) -> None:
        super().__init__()
        if parametrisation not in PARAMETERS:
            remedy = f"use one of {', '.join(PARAMETERS)}"
            raise ModelError(f"is {parametrisation!r}", where="parametrisation", remedy=remedy)
        alpha = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
        if not bool(((alpha > 0) & alpha.isfinite()).all()):
            remedy = "use a percentile of the activation"
            raise ModelError("is not positive and finite", where="threshold", remedy=remedy)
        if not 1 <= steps <= check_levels(max_timesteps):
            raise ModelError(f"is {steps!r}", where="steps", remedy=f"use a number from 1 to {max_timesteps}")
        if parametrisation == "d_alpha" and alpha.dim():
            reason = "has one threshold per channel, for which t = α/d differs between channels"
            remedy = "use one threshold per layer, or another parametrisation"
            raise ModelError(reason, where="d_alpha", remedy=remedy)
        self.parametrisation: Parametrisation = parametrisation
        self.max_timesteps = max_timesteps
        t = alpha.new_tensor(float(steps))
        start = {"bits": t.log2(), "step_size": alpha / t, "threshold": alpha, "steps": t}
        for name in PARAMETERS[parametrisation]:
            self.register_parameter(name, nn.Parameter(start[name].clone()))
        self.register_buffer("stopped", torch.zeros((), dtype=torch.int64))
        self.rates = _rates(parametrisation, float(t), float(alpha.mean()), rate, matched)

    @property
    def real_steps(self) -> Tensor:
        """t before rounding, []; very large if d is zero."""
        if self.parametrisation == "t_alpha":
            return self.get_parameter("steps")
        if self.parametrisation == "d_alpha":
            d = self.get_parameter("step_size")
            return self.get_parameter("threshold") / d.clamp(min=torch.finfo(torch.float32).tiny)
        return self.get_parameter("bits").exp2()

    @property
    def saturation(self) -> Tensor:
        """α, [] or [C]."""
        if self.parametrisation == "n_d":
            return self.get_parameter("step_size") * self.real_steps
        return self.get_parameter("threshold")

    @property
    def levels(self) -> int:  # type: ignore[override]
        """t rounded (halves up), from 1 to ``max_timesteps``: L and T of the site."""
        t = float(self.real_steps.detach())
        if math.isnan(t):
            raise ModelError("is NaN", where="learned t", remedy="load weights from before the training diverged")
        return int(min(max(math.floor(t + 0.5), 1), self.max_timesteps)) if math.isfinite(t) else self.max_timesteps

    def forward(self, z: Tensor) -> Tensor:
        """``z``: [B, C, ...]."""
        if torch.compiler.is_exporting():
            remedy = "convert the network that rb.quantise returned, unchanged"
            raise TraceError("learns its levels and cannot be traced again", where="LearnedStaircase", remedy=remedy)
        return StraightThrough.apply(z, self.saturation, self.real_steps, self.levels, "round")

    @torch.no_grad()
    def set_steps(self, steps: float) -> None:
        """Set t and keep α."""
        alpha = self.saturation.clone()
        named = dict(self.named_parameters())
        if "steps" in named:
            named["steps"].fill_(steps)
        if "bits" in named:
            named["bits"].fill_(math.log2(steps))
        if self.parametrisation == "n_d":
            named["step_size"].copy_(alpha / self.real_steps)  # α from the bits after rounding to their dtype
        elif "step_size" in named:
            named["step_size"].copy_(alpha / steps)

    def extra_repr(self) -> str:
        """Parametrisation and present levels, for ``print(model)``."""
        return f"parametrisation={self.parametrisation}, levels={self.levels}"

    def identity(self) -> str:
        """Parametrisation, bound of t and learning rates."""
        rates = ", ".join(f"{name} {rate:.6g}" for name, rate in self.rates.items())
        bound = f"max_timesteps={self.max_timesteps}"
        return f"learned levels, parametrisation={self.parametrisation}, {bound}, rates: {rates}"


def _rates(parametrisation: Parametrisation, t: float, alpha: float, rate: float, matched: bool) -> dict[str, float]:
    """Learning rates. At equal rates, a gradient step of p changes t by (∂t/∂p)² times the change of a step of t."""
    if not matched:
        return {name: rate for name in PARAMETERS[parametrisation] if name in ("bits", "steps")}
    of_t = STEP_RATE * rate
    return {
        "n_d": {"bits": rate / (alpha * math.log(2)) ** 2, "step_size": 1 / t**2},  # both have gradients of α alone
        "n_alpha": {"bits": of_t / (t * math.log(2)) ** 2},
        "d_alpha": {"step_size": of_t * (alpha / t**2) ** 2},
        "t_alpha": {"steps": of_t},
    }[parametrisation]
