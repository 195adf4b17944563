"""Figures of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from rheobase.errors import DataError, StoreError
from rheobase.evaluate import Evaluation


def accuracy_plot(evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Draw accuracy against time-steps, with a dashed line for the analog network.

    Args:
        evaluations: curve name -> results.
        path: where to write; the ending chooses the format (``.png``, ``.pdf``, ``.svg``).

    Raises:
        DataError: if there is nothing to draw, or a result has no accuracy because its data had no labels.
        StoreError: if the file cannot be written.

    Example:
        >>> accuracy_plot({"RateCoding": rb.evaluate(snn, test)}, "accuracy.png")  # doctest: +SKIP
    """
    if not evaluations:
        raise DataError("is empty", where="evaluations", remedy="give at least one evaluation")
    for name, evaluation in evaluations.items():
        if evaluation.ann_accuracy is None or any(row.accuracy is None for row in evaluation.rows):
            raise DataError("has no accuracy to draw", where=name, remedy="evaluate on labelled data")
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_curves(axes, evaluations)
    _label(axes, sorted({row.timesteps for e in evaluations.values() for row in e.rows}))
    try:
        figure.savefig(path)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


def _draw_curves(axes: Axes, evaluations: Mapping[str, Evaluation]) -> None:
    ann = {evaluation.ann_accuracy for evaluation in evaluations.values()}
    for name, evaluation in evaluations.items():
        steps = [row.timesteps for row in evaluation.rows]
        accuracy = [100 * (row.accuracy or 0.0) for row in evaluation.rows]
        (curve,) = axes.plot(steps, accuracy, marker="o", markersize=5, linewidth=1.8, label=name, zorder=3)
        if len(ann) > 1:
            axes.axhline(
                100 * (evaluation.ann_accuracy or 0.0),
                color=curve.get_color(),
                linestyle="--",
                linewidth=1.2,
                label=f"analog network of {name}",
            )
    if len(ann) == 1:
        value = 100 * (ann.pop() or 0.0)
        axes.axhline(value, color="0.35", linestyle="--", linewidth=1.2, label=f"analog network, {value:.2f} %")


def _label(axes: Axes, steps: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(steps, [str(t) for t in steps])
    axes.set_xlabel("time-steps T")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
