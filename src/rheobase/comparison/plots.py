"""Plots of accuracy against time-steps, latency and energy, as SVG with the colours of the surrounding page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter

from rheobase.comparison.cells import Cell, number
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
        title: the two axes.
        description: the content in words.
        front: True if it has a Pareto front, which the description lists.
        file: SVG file in the colours for a white page.
        inline: ``svg`` element for a page that defines ``--ink``, ``--grid`` and ``--series-0``, ``--series-1``...
    """

    title: str
    description: str
    front: bool
    file: str
    inline: str


def draw(comparison: Comparison) -> dict[str, Plot]:
    """Draw accuracy (without labels: agreement) against T, latency and energy; return the plots by these names."""
    drawn = {
        "timesteps": _draw(comparison, "timesteps", "time-steps T", lambda cell: cell.timesteps, front=False),
        "latency": _draw(
            comparison,
            "latency",
            "latency (steps to the final answer)",
            number("latency", "final"),
        ),
        "energy": _draw(comparison, "energy", "energy / analog network", number("test", "energy_ratio")),
    }
    return {name: plot for name, plot in drawn.items() if plot is not None}


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


def _score(comparison: Comparison) -> tuple[str, Callable[[Cell], float | None], float | None]:
    """Label and value of the vertical axis, and the analog network's value."""
    ann = comparison.about.ann_accuracy["test"]
    if ann is None:
        return "agreement with the analog network (%)", number("test", "agreement", 100), None
    return "accuracy (%)", number("test", "accuracy", 100), 100 * ann


def _draw(
    comparison: Comparison, name: str, cost: str, of: Callable[[Cell], float | None], *, front: bool = True
) -> Plot | None:
    label, score, ann = _score(comparison)
    entries = [entry for entry in comparison.entries if entry.done]
    if not entries:
        return None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(4.9, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        costs: list[float] = []
        points: list[tuple[float, float, Entry]] = []
        for number, method in enumerate(comparison.recipes):
            own = [(_mean(entry, of), _mean(entry, score), entry) for entry in entries if entry.method == method]
            own.sort(key=lambda point: (point[0], point[2].timesteps))
            if own:
                _curve(axes, number, method, own, score)
            points += own
        costs = [point[0] for point in points]
        if ann is not None:
            axes.axhline(ann, color=_INK, linestyle=(0, (4, 3)), linewidth=1, label=f"analog network, {ann:.2f} %")
        best = [points[i] for i in pareto_front([(x, y) for x, y, _ in points])] if front else []
        if front:
            _front(axes, best)
        _axes(axes, costs, cost, label, integers=name != "energy")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=8, labelcolor=_INK)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    title = f"{label.split(' (')[0].capitalize()} against {cost.split(' (')[0]}"
    description = _describe(best) if front else _describe_curves(comparison, entries, score)
    svg = stream.getvalue()
    return Plot(title, description, front, _for_paper(svg), _for_page(svg, name, title, description))


def _mean(entry: Entry, value: Callable[[Cell], float | None]) -> float:
    spread = entry.over_seeds(value)
    assert spread is not None
    return spread.mean


def _curve(
    axes: Axes, number: int, method: str, own: Sequence[tuple[float, float, Entry]], score: Callable[..., Any]
) -> None:
    spreads = [entry.over_seeds(score) for _, _, entry in own]
    deviations = [0.0 if spread is None or spread.deviation is None else spread.deviation for spread in spreads]
    axes.errorbar(
        [x for x, _, _ in own],
        [y for _, y, _ in own],
        yerr=deviations if any(deviations) else None,
        color=_SERIES[number % len(_SERIES)],
        marker=MARKERS[number % len(MARKERS)],
        linestyle=("-", "--", ":")[number // len(_SERIES) % 3],
        markersize=max(4.5, 7.5 - 0.5 * number),  # if curves coincide, the lower one remains visible
        linewidth=max(1.1, 2.4 - 0.2 * number),
        capsize=2,
        elinewidth=0.9,
        label=_literal(method),
    )


def _literal(name: str) -> str:
    """Escape a name for matplotlib, which reads $...$ as a formula and omits labels that start with _."""
    text = name.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _front(axes: Axes, best: Sequence[tuple[float, float, Entry]]) -> None:
    xs, ys = [x for x, _, _ in best], [y for _, y, _ in best]
    axes.plot(xs, ys, color=_INK, linewidth=5, alpha=0.16, drawstyle="steps-post", zorder=1, label="Pareto front")
    axes.plot(
        xs, ys, linestyle="none", marker="o", markersize=10, markerfacecolor="none", markeredgecolor=_INK, alpha=0.6
    )


def _axes(axes: Axes, costs: Sequence[float], cost: str, label: str, *, integers: bool) -> None:
    low, high = min(costs), max(costs)
    if integers:
        ticks = sorted({round(x) for x in costs})
        axes.set_xscale("log", base=2)
        if len(ticks) > 8:  # too many for a label at each
            axes.xaxis.set_major_locator(LogLocator(base=2))
        else:
            axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    elif low > 0 and high / low > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(cost, color=_INK)
    axes.set_ylabel(label, color=_INK)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=_INK, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_INK)


def _describe(best: Sequence[tuple[float, float, Entry]]) -> str:
    listed = "; ".join(f"{entry.method} at T = {entry.timesteps}, {y:.2f} % for {x:.3g}" for x, y, entry in best)
    return f"On the Pareto front: {listed}."


def _describe_curves(comparison: Comparison, entries: Sequence[Entry], score: Callable[..., Any]) -> str:
    listed = []
    for method in comparison.recipes:
        own = sorted((e for e in entries if e.method == method), key=lambda e: e.timesteps)
        if own:
            first, last = own[0], own[-1]
            text = f"{method} from {_mean(first, score):.2f} % at T = {first.timesteps}"
            listed.append(text + (f" to {_mean(last, score):.2f} % at T = {last.timesteps}" if len(own) > 1 else ""))
    return f"One curve for each method: {'; '.join(listed)}."


# -- colours ---------------------------------------------------------------------------------------------------


def _for_paper(svg: str) -> str:
    return _recoloured(svg, {_INK: INK[0], _GRID: GRID[0], **dict(zip(_SERIES, LIGHT, strict=True))})


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
