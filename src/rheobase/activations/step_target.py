"""The mean of T that learned levels are held to (QAC)."""

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
    """The mean T that learned levels are held to, by projection after every training step.

    The paper has no term for T. A penalty needs a weight that fits the loss; the projection needs none, and the mean
    holds for the weights of every epoch. All t are moved by one number such that the rounded t have the wanted sum, so
    that what counts is how the gradients of the sites differ; then each is held between 1 and the bound.

    Attributes:
        mean: of the rounded t over the sites, or the nearest below it; None: only the bounds hold.
        max_timesteps: bound of every t.
        freeze_after: the share of the training after which levels stay as they are, for the weights to adapt to them.
    """

    mean: float | None
    max_timesteps: int
    freeze_after: float = 0.6

    def budget(self, sites: int) -> int:
        """The sum of the levels that the mean allows."""
        return (
            self.max_timesteps * sites
            if self.mean is None
            else min(math.floor(self.mean * sites + 1e-6), self.max_timesteps * sites)
        )

    @torch.no_grad()
    def hold(self, activations: Mapping[str, LearnedStaircase], done: float) -> None:
        """Move the levels of the sites to where they are allowed.

        Args:
            activations: of all sites.
            done: the share of the training that is over.
        """
        parts = list(activations.values())
        before = torch.stack([part.real_steps.detach() for part in parts]).double().cpu()
        if bool(before.isnan().any()):
            return  # the training loop reports it
        for part, t in zip(parts, before.tolist(), strict=True):
            if t > self.max_timesteps:
                part.stopped += 1
        after = before.clamp(1, self.max_timesteps)
        if done >= self.freeze_after:
            after = (after + 0.5).floor().clamp(1, self.max_timesteps)
        if self.mean is not None:
            after = self._project(after)
        for part, old, new in zip(parts, before.tolist(), after.tolist(), strict=True):
            if old != new:
                part.set_steps(new)

    def notes(self, activations: Mapping[str, LearnedStaircase]) -> list[str]:
        """Sites whose levels ended at a bound."""
        single = [name for name, part in activations.items() if part.levels == 1]
        bound = [f"{name} ({part.levels})" for name, part in activations.items() if part.levels == self.max_timesteps]
        stopped = [f"{name} ({int(part.stopped)} steps)" for name, part in activations.items() if int(part.stopped)]
        found = []
        if single:
            which = "every site" if len(single) == len(activations) else ", ".join(single)
            found.append(f"learned levels: a single one, a spike or none, at {which}")
        if bound:
            found.append(f"learned levels: as many as the bound allows at {', '.join(bound)}")
        if stopped:
            found.append(
                f"learned levels: training drove t above the bound and was stopped there at {', '.join(stopped)}"
            )
        return found

    def _project(self, t: Tensor) -> Tensor:
        # A site has at least k levels after a shift of at most t − k + 1/2. The wanted sum is n and one for each of the
        # `room` largest of these numbers, so the shift has to lie between the last of them and the next.
        room = self.budget(len(t)) - len(t)
        edges = t[:, None] - torch.arange(2, self.max_timesteps + 1) + 0.5
        falling, order = edges.flatten().sort(descending=True, stable=True)
        levels = 1 + torch.bincount(order[:room] // edges.shape[1], minlength=len(t))
        last_in = float(falling[room - 1]) if room > 0 else math.inf
        first_out = float(falling[room]) if room < len(falling) else -math.inf
        inward = min((last_in - first_out) / 2, _MARGIN)  # not onto the edge, where the next step tips the level back
        shift = first_out + inward if first_out >= 0 else min(last_in - inward, 0.0)
        # where several t are equal, no shift gives the sum: then the first of them get the further level
        return (t - shift).clamp(levels - 0.5 + _INSIDE, levels + 0.5 - _INSIDE).clamp(1, self.max_timesteps)
