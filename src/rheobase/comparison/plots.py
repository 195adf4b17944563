"""Plots of a score against time-steps, latency and energy, as SVG with the colours of the surrounding page.

Of many methods, those that are the best within a budget have a colour and a label at the end of their line. The others
are grey, and named where the pointer rests on them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import NamedTuple, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from rheobase.comparison.answer import answer
from rheobase.comparison.grid import Comparison, Entry

LIGHT = ("#0b63b8", "#c7404f", "#23804a", "#a76400", "#7548b5", "#0c7f86", "#a52a78", "#5d6a00", "#70503a", "#4c5663")
DARK = ("#6fb4ff", "#ff8e9a", "#6bd39a", "#f0b755", "#c4a3ff", "#5fd3da", "#ff90cf", "#c6d65c", "#d6ae90", "#b9c3cf")
"""Colours of the methods on white and on black, each with a contrast ratio above 4.5."""
INK, GRID, REST = ("#1c2128", "#e6e9ed"), ("#c9ced6", "#3a424d"), ("#b3bac4", "#56606c")
"""(on white, on black): text and axes; lines of the grid; methods without a colour."""
MARKERS = "os^Dv*XP<>"
FEW = 8
"""So many methods all have a colour."""

# Placeholder colours that matplotlib writes into the SVG; no real colour is as close to black.
_INK, _GRID, _REST = "#000001", "#000002", "#000003"
_SERIES = tuple(f"#0000{16 + i:02x}" for i in range(len(LIGHT)))


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        description: the figure in words, for those who do not see it.
        file: SVG file in the colours for a white page.
        inline: ``svg`` element for a page that defines ``--ink``, ``--grid``, ``--rest`` and ``--series-0``...
    """

    title: str
    description: str
    file: str
    inline: str


class _Point(NamedTuple):
    x: float
    y: float
    deviation: float
    entry: Entry


class _Line(NamedTuple):
    """A line, with the number of its colour; None: grey, without a label."""

    name: str
    colour: int | None
    points: Sequence[tuple[float, float, float]]  # x, y, deviation


def draw(comparison: Comparison) -> dict[str, Plot]:
    """Draw the score (without labels: the agreement) against T, latency and energy; return the plots by these names.

    The score is the first measure of the task, such as accuracy, mean IoU or R². ``"layers"`` has the loss of every
    layer, for the methods that are the best within a budget.
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
    layers = _draw_layers(comparison)
    return plots if layers is None else {**plots, "layers": layers}


def coloured(comparison: Comparison) -> dict[str, int]:
    """The methods with a colour, and its number: all of a few, else those that are the best within a budget."""
    methods: Sequence[str] = [*comparison.recipes]
    if len(methods) > FEW:
        found = answer(comparison)
        methods = list(dict.fromkeys(row.entry.method for row in reversed(found.rows))) if found else methods
    return {method: number for number, method in enumerate(methods[: len(LIGHT)])}


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
    colours = coloured(comparison)
    lines = [
        _Line(method, colours.get(method), sorted(point[:3] for point in curve))
        for method, curve in curves.items()
        if curve
    ]

    def axes(axes: Axes) -> None:
        _cost_axis(axes, [point.x for point in points], integers=name in ("timesteps", "latency"))
        if ann is not None:
            level = measure.scale * ann
            axes.axhline(level, color=_INK, linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                f"analog network, {measure.text(ann)}",
                (0, level),
                xycoords=("axes fraction", "data"),
                xytext=(3, 3),
                textcoords="offset points",
                color=_INK,
                fontsize=8,
            )
            if measure.share:
                _loss_axis(axes, level, [point.y for point in points])
        if best:
            xs, ys = [point.x for point in best], [point.y for point in best]
            axes.plot(xs, ys, color=_INK, lw=5, alpha=0.16, drawstyle="steps-post", zorder=1)

    losses = ann is not None and measure.share
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
    ylabel = f"{measure.heading} − analog network's (points)" if losses else label
    return _plot(name, title, description, lines, cost, ylabel, axes)


def _draw_layers(comparison: Comparison) -> Plot | None:
    """The error of every site, of the methods that are the best within a budget; None if it was not measured."""
    found, colours = answer(comparison), coloured(comparison)
    lines, at_last, worst = [], [], ""
    entries = {row.entry.method: row.entry for row in found.rows} if found else {}  # of each method the least limited
    for entry in entries.values():
        losses = [cell.layers for cell in entry.done if cell.layers]
        if not losses or entry.method not in colours:
            continue
        means = [100 * fmean(loss.error for loss in site) for site in zip(*losses, strict=True)]
        name = f"{entry.method}, T = {entry.timesteps}"
        lines.append(_Line(name, colours[entry.method], [(i, mean, 0.0) for i, mean in enumerate(means, 1)]))
        at_last.append(f"{name}: {means[-1]:.1f} %")
        most = max(losses[0], key=lambda loss: loss.own)
        if found is not None and entry is found.rows[-1].entry:
            worst = f"{name} loses most at {most.site}, mainly by {most.cause}."
    if not lines:
        return None

    def axes(axes: Axes) -> None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_ylim(bottom=0)

    description = f"Error at the last layer: {'; '.join(at_last)}. {worst}"
    labels = "layer (site)", "error (% of the activation)"
    return _plot("layers", "Loss by layer", description, lines, *labels, axes)


def _plot(
    name: str,
    title: str,
    description: str,
    lines: Sequence[_Line],
    xlabel: str,
    ylabel: str,
    set_axes: Callable[[Axes], None],
) -> Plot:
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(4.7, 3.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, line in enumerate(lines):
            _curve(axes, number, line)
        set_axes(axes)
        axes.set_xlabel(xlabel, color=_INK)
        axes.set_ylabel(ylabel, color=_INK)
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(color=_INK, labelcolor=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(_INK)
        _label_ends(axes, [line for line in lines if line.colour is not None])
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    paper = {_INK: INK[0], _GRID: GRID[0], _REST: REST[0], **dict(zip(_SERIES, LIGHT, strict=True))}
    inline = _for_page(svg, name, title, description)
    for number, line in enumerate(lines):  # browsers show a title where the pointer rests
        group = f'<g id="{name}-line-{number}">'
        inline = inline.replace(group, f"{group}<title>{escape(line.name)}</title>")
    return Plot(title, description, _recoloured(svg, paper), inline)


def _curve(axes: Axes, number: int, line: _Line) -> None:
    xs, ys, deviations = zip(*line.points, strict=True)
    if line.colour is None:
        axes.plot(xs, ys, color=_REST, marker=".", markersize=4, linewidth=1, zorder=1.5, gid=f"line-{number}")
        return
    colour = _SERIES[line.colour]
    axes.plot(
        xs,
        ys,
        color=colour,
        marker=MARKERS[line.colour],
        markersize=max(4.0, 7.0 - 0.5 * line.colour),  # if curves coincide, the lower one remains visible
        linewidth=max(1.2, 2.2 - 0.15 * line.colour),
        gid=f"line-{number}",
    )
    if any(deviations):
        axes.errorbar(xs, ys, yerr=deviations, fmt="none", ecolor=colour, capsize=2, elinewidth=0.9)


def _label_ends(axes: Axes, lines: Sequence[_Line]) -> None:
    """Write the names right of the axes, at the heights of the lines' ends or as near as they do not overlap."""
    if not lines:
        return
    axes.autoscale_view()
    ends = sorted(lines, key=lambda line: line.points[-1][1])
    to_axes = axes.transData + axes.transAxes.inverted()
    places = apart([to_axes.transform(line.points[-1][:2])[1] for line in ends], gap=0.048)  # a line of text
    for line, place in zip(ends, places, strict=True):
        assert line.colour is not None
        name = line.name if len(line.name) <= 28 else f"{line.name[:27]}…"
        colour = _SERIES[line.colour]
        axes.annotate(
            name.replace("$", r"\$"),  # matplotlib reads $...$ as a formula
            line.points[-1][:2],
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=colour,
            fontsize=8.5,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1},
            annotation_clip=False,
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move rising heights within 0 to 1 as little as possible so that they are ``gap`` apart; many may end above 1.

    Example:
        >>> [round(height, 3) for height in apart([0.5, 0.5, 0.9], gap=0.1)]
        [0.45, 0.55, 0.9]
    """
    from sklearn.isotonic import isotonic_regression  # takes a second, which not every command should

    steps = gap * np.arange(len(heights))  # without them, apart means rising
    rising = isotonic_regression(np.array(heights) - steps, y_min=0, y_max=max(0.0, 1 - steps[-1]))
    return cast(list[float], (rising + steps).tolist())


def _loss_axis(axes: Axes, level: float, values: Sequence[float]) -> None:
    """An axis on which the points near the analog network's ``level`` have most of the room, labelled by the loss."""

    def squeezed(y: np.ndarray) -> np.ndarray:
        return np.sign(y - level) * np.log1p(np.abs(y - level))

    def stretched(y: np.ndarray) -> np.ndarray:
        return level + np.sign(y) * np.expm1(np.abs(y))

    axes.set_yscale("function", functions=(squeezed, stretched))
    lowest, highest = min(*values, level - 1), max(*values, level)
    bottom, top = stretched(squeezed(np.array([lowest, highest])) + np.array([-0.15, 0.35]))  # room for the label above
    axes.set_ylim(float(bottom), float(top))
    ticks = {sign * loss for loss in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) for sign in (-1, 1)}
    axes.yaxis.set_major_locator(FixedLocator([level + tick for tick in ticks if lowest <= level + tick <= highest]))

    def named(y: float, _: int) -> str:
        loss = round(y - level, 6)
        return f"{loss:+.3g}".replace("-", "−") if loss else "0"

    axes.yaxis.set_major_formatter(FuncFormatter(named))
    axes.yaxis.set_minor_locator(NullLocator())


def _cost_axis(axes: Axes, costs: Sequence[float], *, integers: bool) -> None:
    low, high = min(costs), max(costs)
    if integers or (low > 0 and high / low > 10):
        ticks = sorted({round(x) for x in costs})
        axes.set_xscale("log", base=2 if integers else 10)
        few = integers and len(ticks) <= 8  # a label at each
        logarithmic = LogLocator(base=2) if integers else LogLocator(subs=(1, 2, 5))
        axes.xaxis.set_major_locator(FixedLocator(ticks) if few else logarithmic)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())


def _for_page(svg: str, name: str, title: str, description: str) -> str:
    """The svg element alone, with unique ids, and a title and description for screen readers."""
    colours = {_INK: "var(--ink)", _GRID: "var(--grid)", _REST: "var(--rest)"}
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
