"""Plots of a score against time-steps, latency and energy, as SVG with the colours of the surrounding page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter

from rheobase.comparison.grid import Comparison, Entry

LIGHT = ("#0b63b8", "#c7404f", "#23804a", "#a76400", "#7548b5", "#0c7f86", "#a52a78", "#5d6a00", "#70503a", "#4c5663")
DARK = ("#6fb4ff", "#ff8e9a", "#6bd39a", "#f0b755", "#c4a3ff", "#5fd3da", "#ff90cf", "#c6d65c", "#d6ae90", "#b9c3cf")
"""Colours of the methods on white and on black, each with a contrast ratio above 4.5."""
INK, GRID = ("#1c2128", "#e6e9ed"), ("#c9ced6", "#3a424d")
"""(on white, on black): text and axes; lines of the grid."""
MARKERS = "os^Dv*XP<>"

# Placeholder colours that matplotlib writes into the SVG; no real colour is as close to black.
_INK, _GRID = "#000001", "#000002"
_SERIES = tuple(f"#0000{16 + i:02x}" for i in range(len(LIGHT)))


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        front: True if it has a Pareto front, which the description lists.
        file: SVG file in the colours for a white page.
        inline: ``svg`` element for a page that defines ``--ink``, ``--grid`` and ``--series-0``, ``--series-1``...
    """

    title: str
    description: str
    front: bool
    file: str
    inline: str


class _Point(NamedTuple):
    x: float
    y: float
    deviation: float
    entry: Entry


def draw(comparison: Comparison) -> dict[str, Plot]:
    """Draw the score (without labels: the agreement) against T, latency and energy; return the plots by these names.

    The score is the first measure of the task, such as accuracy, mean IoU or R².
    """
    if not any(entry.done for entry in comparison.entries):
        return {}
    plots = {
        "timesteps": _draw(comparison, "timesteps", "time-steps T", _curves(comparison, "timesteps"), front=False),
        "latency": _draw(
            comparison, "latency", "latency (steps to the final answer)", _curves(comparison, "latency.final")
        ),
        "energy": _draw(comparison, "energy", "energy / analog network", _curves(comparison, "test.energy_ratio")),
    }
    exits = _exit_curves(comparison)
    if any(exits.values()):
        plots["early_exit"] = _draw(comparison, "early_exit", "mean T of early exit", exits)
    return plots


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, value) on the Pareto front, by rising cost; of equal points the first.

    A point is on the front if no other point has a lower cost and at least its value, or at most its cost and a higher
    value.

    Example:
        >>> pareto_front([(1, 0.5), (2, 0.4), (2, 0.9), (3, 0.9)])
        [0, 2]
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _curves(comparison: Comparison, cost: str) -> dict[str, list[_Point]]:
    """The score of every entry against a cost, by method."""
    measure = comparison.about.judged_by
    curves: dict[str, list[_Point]] = {method: [] for method in comparison.recipes}
    for entry in comparison.entries:
        spread = entry.over_seeds(f"test.{measure.name}", measure.scale)
        if spread is not None:
            curves[entry.method].append(_Point(entry.mean(cost), spread.mean, spread.deviation or 0.0, entry))
    return curves


def _exit_curves(comparison: Comparison) -> dict[str, list[_Point]]:
    """The score at each confidence against the mean number of steps, of each method at its largest T."""
    curves: dict[str, list[_Point]] = {method: [] for method in comparison.recipes}
    for entry in sorted(comparison.entries, key=lambda entry: entry.timesteps):
        seeds = [cell.early_exit.all for cell in entry.done if cell.early_exit is not None]
        if seeds and len(seeds) == len(entry.done):
            curves[entry.method] = [
                _Point(fmean(row.mean_timesteps for row in rows), 100 * fmean(row.score for row in rows), 0.0, entry)
                for rows in zip(*seeds, strict=True)
            ]
    return curves


def _draw(comparison: Comparison, name: str, cost: str, curves: dict[str, list[_Point]], *, front: bool = True) -> Plot:
    ann, measure = comparison.about.ann_score("test"), comparison.about.judged_by
    label = measure.title.replace("ANN", "the analog network")

    def shown(y: float) -> str:
        """A value of the plot, which is already scaled."""
        return measure.form.format(y)

    points = [point for curve in curves.values() for point in curve]
    best = [points[i] for i in pareto_front([(x, measure.best * y) for x, y, *_ in points])] if front else []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(4.9, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, (method, curve) in enumerate(curves.items()):
            _curve(axes, number, method, sorted(curve, key=lambda point: (point.x, point.entry.timesteps)))
        if ann is not None:
            named = f"analog network, {measure.text(ann)}"
            axes.axhline(measure.scale * ann, color=_INK, linestyle=(0, (4, 3)), linewidth=1, label=named)
        if front:
            xs, ys = [point.x for point in best], [point.y for point in best]
            axes.plot(xs, ys, color=_INK, lw=5, alpha=0.16, drawstyle="steps-post", zorder=1, label="Pareto front")
            axes.plot(xs, ys, linestyle="none", marker="o", ms=10, mfc="none", mec=_INK, alpha=0.6)
        _axes(axes, [point.x for point in points], cost, label, integers=name in ("timesteps", "latency"))
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=8, labelcolor=_INK)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    heading = label.split(" (")[0]
    title = f"{heading[0].upper()}{heading[1:]} against {cost.split(' (')[0]}"
    if front:
        listed = [f"{entry.method} at T = {entry.timesteps}, {shown(y)} for {x:.3g}" for x, y, _, entry in best]
        description = f"On the Pareto front: {'; '.join(listed)}."
    else:
        listed = []
        for method, curve in curves.items():
            ends = sorted((point.entry.timesteps, point.y) for point in curve)
            texts = dict.fromkeys(f"{shown(y)} at T = {t}" for t, y in (*ends[:1], *ends[-1:]))
            listed += [f"{method} from {' to '.join(texts)}"] if texts else []
        description = f"One curve for each method: {'; '.join(listed)}."
    svg = stream.getvalue()
    paper = {_INK: INK[0], _GRID: GRID[0], **dict(zip(_SERIES, LIGHT, strict=True))}
    return Plot(title, description, front, _recoloured(svg, paper), _for_page(svg, name, title, description))


def _curve(axes: Axes, number: int, method: str, curve: Sequence[_Point]) -> None:
    if not curve:
        return
    # matplotlib reads $...$ as a formula, and omits labels that start with _
    label = re.sub("^_", "\u200b_", method.replace("$", r"\$"))
    xs, ys, deviations, _ = zip(*curve, strict=True)
    axes.errorbar(
        xs,
        ys,
        yerr=deviations if any(deviations) else None,
        color=_SERIES[number % len(_SERIES)],
        marker=MARKERS[number % len(MARKERS)],
        linestyle=("-", "--", ":")[number // len(_SERIES) % 3],
        markersize=max(4.5, 7.5 - 0.5 * number),  # if curves coincide, the lower one remains visible
        linewidth=max(1.1, 2.4 - 0.2 * number),
        capsize=2,
        elinewidth=0.9,
        label=label,
    )


def _axes(axes: Axes, costs: Sequence[float], cost: str, label: str, *, integers: bool) -> None:
    low, high = min(costs), max(costs)
    if integers or (low > 0 and high / low > 10):
        ticks = sorted({round(x) for x in costs})
        axes.set_xscale("log", base=2 if integers else 10)
        few = integers and len(ticks) <= 8  # a label at each
        logarithmic = LogLocator(base=2) if integers else LogLocator(subs=(1, 2, 5))
        axes.xaxis.set_major_locator(FixedLocator(ticks) if few else logarithmic)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(cost, color=_INK)
    axes.set_ylabel(label, color=_INK)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=_INK, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_INK)


def _for_page(svg: str, name: str, title: str, description: str) -> str:
    """The svg element alone, with unique ids, and a title and description for screen readers."""
    colours = {_INK: "var(--ink)", _GRID: "var(--grid)"}
    colours |= {colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)}
    element = svg[svg.index("<svg") :]
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    element = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", element)  # the page's own font
    heading = (
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )
    element = element.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-title {name}-description" ', 1)
    return _recoloured(element.replace(">", f">{heading}", 1), colours)


def _recoloured(svg: str, colours: dict[str, str]) -> str:
    return re.sub(r"#0000[0-9a-f]{2}\b", lambda found: colours.get(found[0], found[0]), svg)
