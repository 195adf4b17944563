"""Detection of a run that diverges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.core.errors import DivergedError
from rheobase.training.checkpoint import CHECKPOINT_FILE

_CHECK_EVERY = 20
"""Steps between two checks, if a check waits for a GPU or another process."""

_WATCHED = ("threshold", "step_size", "steps", "bits")
"""Names of the checked parameters; of bits n, 2ⁿ is checked."""


class Guard:
    """Stops a run if a loss is not finite, or a threshold, step size or number of steps not positive and finite.

    In one process on a CPU it checks every step. Elsewhere a check waits for the device or for other processes, so the
    results of several steps are checked together; all processes check the same results and stop at the same step.
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
        """Record the result of a step, and check the recorded results when due."""
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
        """The error for a run that diverged."""
        kept = str(self.folder) if self.folder is not None and (self.folder / CHECKPOINT_FILE).exists() else None
        remedy = "use a smaller learning rate, clip the gradient, or warm up"
        return DivergedError(problem, where=when, kept=kept, remedy=remedy)

    def _thresholds_fine(self) -> Tensor:
        parts = (value.exp2() if name.endswith("bits") else value for name, value in self.thresholds.items())
        values = torch.cat([part.detach().reshape(-1) for part in parts])
        return (values > 0) & (values < torch.inf)  # both false for NaN

    def _report(self, fine: Tensor, when: str) -> None:
        if bool(fine.all()):
            return
        place = int((~fine).nonzero()[0])
        for name, parameter in self.thresholds.items():
            if place < parameter.numel():
                value = float(parameter.detach().reshape(-1)[place])
                raise self.error(f"{name} is {value:.4g}, not positive and finite", when)
            place -= parameter.numel()
