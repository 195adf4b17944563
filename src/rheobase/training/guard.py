"""Stops a run that has left the rails, and says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.core.errors import DivergedError
from rheobase.training.checkpoint import CHECKPOINT_FILE

_CHECK_EVERY = 20
"""Steps between two looks, where looking means to wait for a GPU or another process."""


_WATCHED = ("threshold", "step_size", "steps", "bits")
"""Names of parameters; of bits, 2 to their power."""


class Guard:
    """Sees that losses stay finite, and thresholds, step sizes and numbers of steps positive and finite.

    On one CPU after every step. Elsewhere a look means to wait for the device or for the other processes, so the
    findings of some steps are looked at together; all processes look at the same ones, and so stop at the same step.
    """

    def __init__(self, module: nn.Module, fabric: Any, folder: Path | None) -> None:
        self.fabric, self.folder = fabric, folder
        self.thresholds = {
            name: parameter for name, parameter in module.named_parameters() if name.split(".")[-1] in _WATCHED
        }
        self.every = 1 if fabric.device.type == "cpu" and fabric.world_size == 1 else _CHECK_EVERY
        self.findings: list[Tensor] = []
        if self.thresholds:
            self._report(self._thresholds_fine(), "before training")

    def watch(self, loss: Tensor, epoch: int, step: int, last: bool) -> None:
        """Note how a step ended."""
        fine = torch.isfinite(loss).reshape(1)
        self.findings.append(torch.cat([fine, self._thresholds_fine()]) if self.thresholds else fine)
        if len(self.findings) < self.every and not last:
            return
        first = step - len(self.findings) + 1
        found = torch.stack(self.findings).int()
        if self.fabric.world_size > 1:
            found = self.fabric.all_reduce(found, reduce_op="min")
        self.findings.clear()
        if not bool(found.all()):
            i = int((found == 0).any(1).nonzero()[0])
            when = f"epoch {epoch}, step {first + i}"
            self._report(found[i, 1:] > 0, when)
            raise self.error("the loss is not finite", when)

    def error(self, problem: str, when: str) -> DivergedError:
        """What to say when the run has left the rails."""
        kept = str(self.folder) if self.folder is not None and (self.folder / CHECKPOINT_FILE).exists() else None
        remedy = "use a smaller learning rate, clip the gradient, or warm up"
        return DivergedError(problem, where=when, kept=kept, remedy=remedy)

    def _thresholds_fine(self) -> Tensor:
        values = torch.cat(
            [
                (value.exp2() if name.endswith("bits") else value).detach().reshape(-1)
                for name, value in self.thresholds.items()
            ]
        )
        return (values > 0) & (values < torch.inf)  # both false for NaN

    def _report(self, fine: Tensor, when: str) -> None:
        parts = fine.split([parameter.numel() for parameter in self.thresholds.values()])
        for (name, parameter), part in zip(self.thresholds.items(), parts, strict=True):
            if not bool(part.all()):
                place = int((~part).nonzero()[0])
                value = float(parameter.detach().reshape(-1)[place])
                raise self.error(f"{name} is {value:.4g}, no positive number", when)
