"""The target for the mean T of learned levels (QAC)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.activations.learned_staircase import LearnedStaircase

_MARGIN = 0.1
_INSIDE = 1e-3


@dataclass(frozen=True)
class StepTarget:
    """The target for the mean T of learned levels, enforced by projection after every training step.

    Differs from the paper: it has no term for T. A penalty would need a weight tuned to the loss. The projection needs
    none, and every epoch satisfies the target. It shifts all t by one number such that the rounded t have the target
    sum, so only differences between the gradients of the sites matter. Each t is then clipped to 1..``max_timesteps``.

    Attributes:
        mean: target for the mean of the rounded t over the sites, or the nearest possible mean below; None: no target.
        max_timesteps: upper bound of t at every site.
        freeze_after: share of the training after which the levels are frozen, so that the weights adapt to them.
    """

    mean: float | None
    max_timesteps: int
    freeze_after: float = 0.6

    def budget(self, sites: int) -> int:
        """The largest sum of levels that the mean allows for this number of sites."""
        most = self.max_timesteps * sites
        return most if self.mean is None else min(math.floor(self.mean * sites + 1e-6), most)

    @torch.no_grad()
    def project(self, activations: Mapping[str, LearnedStaircase], done: float) -> None:
        """Project the levels of all sites onto the target and the bounds."""
        staircases = list(activations.values())
        before = torch.stack([staircase.real_steps.detach() for staircase in staircases]).double().cpu()
        if bool(before.isnan().any()):
            return  # the training loop reports it
        for staircase, t in zip(staircases, before.tolist(), strict=True):
            if t > self.max_timesteps:
                staircase.stopped += 1
        after = before.clamp(1, self.max_timesteps)
        if done >= self.freeze_after:
            after = (after + 0.5).floor().clamp(1, self.max_timesteps)
        if self.mean is not None:
            after = self._project(after)
        for staircase, old, new in zip(staircases, before.tolist(), after.tolist(), strict=True):
            if old != new:
                staircase.set_steps(new)

    def notes(self, activations: Mapping[str, LearnedStaircase]) -> list[str]:
        """Notes about sites whose levels ended at a bound."""
        sites = activations.items()
        single = [name for name, staircase in sites if staircase.levels == 1]
        bound = [f"{name} ({staircase.levels})" for name, staircase in sites if staircase.levels == self.max_timesteps]
        stopped = [f"{name} ({int(staircase.stopped)} steps)" for name, staircase in sites if int(staircase.stopped)]
        found = []
        if single:
            which = "every site" if len(single) == len(activations) else ", ".join(single)
            found.append(f"learned levels: L = 1, at most one spike, at {which}")
        if bound:
            found.append(f"learned levels: L is at max_timesteps at {', '.join(bound)}")
        if stopped:
            found.append(f"learned levels: training steps with t clipped to max_timesteps at {', '.join(stopped)}")
        return found

    def _project(self, t: Tensor) -> Tensor:
        # A site has at least k levels after a shift of at most t − k + 1/2. n sites have the target sum n + `room` if
        # the shift is between the `room`-th largest and the next of these numbers.
        room = self.budget(len(t)) - len(t)
        edges = t[:, None] - torch.arange(2, self.max_timesteps + 1) + 0.5
        falling, order = edges.flatten().sort(descending=True, stable=True)
        levels = 1 + torch.bincount(order[:room] // edges.shape[1], minlength=len(t))
        last_in = float(falling[room - 1]) if room > 0 else math.inf
        first_out = float(falling[room]) if room < len(falling) else -math.inf
        inward = min((last_in - first_out) / 2, _MARGIN)  # not at the edge, where the next training step could undo it
        shift = first_out + inward if first_out >= 0 else min(last_in - inward, 0.0)
        # if several t are equal, no shift may give the sum: the first of them then get the additional level
        return (t - shift).clamp(levels - 0.5 + _INSIDE, levels + 0.5 - _INSIDE).clamp(1, self.max_timesteps)
