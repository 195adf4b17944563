"""Convergence of calibration: accuracy against iterations, on held-out calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from rheobase.core.errors import RecipeError
from rheobase.core.results import Column, Result, Table
from rheobase.data.batches import Batches
from rheobase.methods import FTBC, Recipe
from rheobase.methods._convert import convert
from rheobase.passes import TemporalBias


@dataclass(frozen=True)
class Point:
    """A network after some iterations, measured on the held-out calibration images.

    Attributes:
        iteration: 0 before the first correction.
        accuracy: fraction of correct predictions; None without labels.
        agreement: fraction of images on which the analog network predicts the same class.
        logit_error: Σ‖SNN − ANN‖² / Σ‖ANN‖² of the logits.
    """

    iteration: int
    accuracy: float | None
    agreement: float
    logit_error: float


@dataclass(frozen=True)
class Stability(Result):
    """One curve for each number of time-steps.

    Attributes:
        curves: T -> points of the curve, from iteration 0.
        images: number of held-out images.
    """

    curves: dict[int, tuple[Point, ...]]
    images: int

    def table(self) -> Table:
        """One row for each T and iteration."""
        columns = (
            Column("T", lambda row: row[0]),
            Column("iteration", lambda row: row[1].iteration),
            Column("accuracy", lambda row: row[1].accuracy, "{:.2f} %", scale=100),
            Column("agreement with ANN", lambda row: row[1].agreement, "{:.2f} %", scale=100),
            Column("logit error", lambda row: row[1].logit_error, "{:.3f}"),
        )
        return Table(columns, [(t, point) for t, curve in self.curves.items() for point in curve])


def stability(
    model: nn.Module,
    calibration: Batches | Dataset[Any],
    *,
    timesteps: Sequence[int] = (4, 8, 16),
    iterations: int = 20,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Stability:
    """Calibrate for several T and record every iteration (Wu et al. 2024, Fig. 3).

    Patience is disabled, so that a curve ends early only if the biases diverge.

    Args:
        model: as for :func:`rheobase.convert`.
        calibration: training images, with labels if accuracy is wanted; a fifth is held out for the measurement.
        timesteps: T of each curve.
        iterations: number of iterations of each curve.
        recipe: a recipe with a :class:`rheobase.passes.TemporalBias`; default ``FTBC()``. Its T and iterations are
            replaced.
        seed: of the sample of calibration images and of the split.
        progress: show a progress bar.
        options: further options of :func:`rheobase.convert`, such as ``num_calibration_images``.

    Raises:
        RecipeError: if the recipe has no ``TemporalBias``, ``timesteps`` is empty, or no image is held out.

    Example:
        >>> rb.measure.stability(net, train, timesteps=(4, 8)).curves[4][0].accuracy  # doctest: +SKIP
    """
    recipe = FTBC() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise RecipeError.typed(
            f"is a {type(recipe).__name__}", where="recipe", remedy="pass a recipe such as rb.FTBC()"
        )
    if not timesteps:
        raise RecipeError("is empty", where="timesteps", remedy="give at least one number of time-steps")
    if not any(isinstance(part, TemporalBias) for part in recipe.calibration):
        raise RecipeError(
            "has no TemporalBias pass", where="recipe", remedy="use a recipe with a TemporalBias, such as FTBC"
        )
    curves: dict[int, tuple[Point, ...]] = {}
    for t in timesteps:
        network = convert(
            model, _whole(recipe, t, iterations), calibration=calibration, seed=seed, progress=progress, **options
        )
        held_out = int(network.provenance.calibration["held_out"])
        if held_out == 0:
            raise RecipeError("has no image to hold out", where="calibration", remedy="give at least five images")
        (history,) = (record["history"] for record in network.provenance.passes if record["history"])
        curves[t] = tuple(Point(p["iteration"], p.get("accuracy"), p["agreement"], p["logit_error"]) for p in history)
    return Stability(curves, held_out)


def _whole(recipe: Recipe, timesteps: int, iterations: int) -> Recipe:
    """The recipe for another T, without early stopping."""
    fields = recipe.to_dict()
    for part in fields["calibration"]:
        if part["kind"] == "temporal_bias":
            part |= {"iterations": iterations, "patience": iterations}
    return Recipe(**{**fields, "timesteps": timesteps})
