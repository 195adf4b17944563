"""Regression: outputs are quantities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rheobase.core.errors import DataError
from rheobase.core.torchvision import repair_torchvision
from rheobase.tasks.task import Measure, Scores, Task, is_finite, refuse, refuse_shape, same_shapes


class Regression(Task):
    """Quantities: one or several numbers for each image, or maps of them; outputs of any shape.

    Nothing is decided, so that the relative error of the outputs takes the place of an agreement.
    """

    name = "regression"
    needs = "one number for each output"
    measures = (
        Measure("r2", "R²", "1 − squared error / variance of the targets, mean over the outputs (channels)"),
        Measure("mse", "MSE", "mean squared error", best=-1),
        Measure("mae", "MAE", "mean absolute error", best=-1),
    )
    decides = False

    def fits(self, outputs: Sequence[int]) -> bool:
        """Any shape."""
        return True

    def check(self, outputs: Sequence[int], labels: Tensor, where: str, offset: int = 0) -> None:
        """Finite numbers [N, ...] of the shape of the outputs; the axis of a single channel may be missing."""
        if tuple(labels.shape[1:]) not in same_shapes(outputs) or labels.is_complex():
            refuse_shape(labels, where, f"{self.needs}, of shape {['N', *outputs]}".replace("'", ""))
        refuse(labels, ~is_finite(labels), "is {}", where, offset, "repair the label, or leave the image out")

    def targets(self, labels: Tensor) -> Tensor:
        """As float32."""
        return labels.float()

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean squared error."""
        if smoothing:
            raise DataError("has no effect on a regression", where="label_smoothing", remedy="leave it out")
        return F.mse_loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))

    def distance(self, outputs: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Mean squared difference; the temperature has no effect."""
        return F.mse_loss(outputs, reference)

    def agreement(self, outputs: Tensor, reference: Tensor) -> None:
        """None."""

    def right(self, outputs: Tensor, targets: Tensor) -> None:
        """None."""

    def scores(self, outputs: Sequence[int]) -> Scores:
        """R², mean squared and mean absolute error."""
        return _RegressionScores(self)


class _RegressionScores(Scores):
    def __init__(self, task: Regression) -> None:
        repair_torchvision()
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

        super().__init__(task)
        # float64, because R² is computed from sums of squares whose difference is small
        self.r2 = R2Score().set_dtype(torch.float64)
        self.mse, self.mae = (kind().set_dtype(torch.float64) for kind in (MeanSquaredError, MeanAbsoluteError))
        self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        pair = [_by_channel(x.reshape(outputs.shape).double()) for x in (outputs, targets)]
        self.count += len(pair[0])
        for measure in (self.r2, self.mse, self.mae):
            measure.update(*pair)

    def compute(self) -> dict[str, float]:
        found = {"mse": float(self.mse.compute()), "mae": float(self.mae.compute())}
        return found if self.count < 2 else {"r2": float(self.r2.compute()), **found}  # one number has no variance


def _by_channel(x: Tensor) -> Tensor:
    """[B, C, ...] as [places, C]; a single channel as [places]."""
    if x.dim() == 1 or x.shape[1] == 1:
        return x.flatten()
    return x.movedim(1, -1).flatten(0, -2)
