"""Figures of results.

Each function writes the file ``path``, whose suffix selects the format (``.png``, ``.pdf``, ``.svg``), and raises a
:class:`rheobase.core.errors.StoreError` if it cannot be written, and a :class:`rheobase.core.errors.DataError` if there
is nothing to draw, or networks of one figure have different sites.

Example:
    >>> plots.accuracy_plot({"RateCoding": rb.evaluate(snn, test)}, "accuracy.png")  # doctest: +SKIP
    >>> plots.level_metric_plot(found, "metric.png", levels=found.assign((8, 4)))  # doctest: +SKIP
    >>> plots.level_metric_plot(found.sweep((1, 0.75, 0.5)), "alpha.png")  # doctest: +SKIP
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite, log2, nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rheobase.core.errors import DataError, StoreError
from rheobase.core.folders import user_path
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure._diagnose import Diagnosis
from rheobase.measure._distribution import Distribution
from rheobase.measure._evaluate import Evaluation
from rheobase.measure._potentials import Potentials
from rheobase.measure._unevenness import Unevenness
from rheobase.methods.adaptive_levels import LevelMetric
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.tasks import TASKS

STYLE: dict[Any, Any] = {
    **{"figure.dpi": 150, "figure.constrained_layout.use": True, "legend.frameon": False},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3, "axes.titlesize": "medium"},
    **{"axes.spines.top": False, "axes.spines.right": False, "lines.markersize": 4, "lines.linewidth": 1.6},
}


def accuracy_plot(evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Draw accuracy against time-steps, with a dashed line for the analog network.

    For other tasks than classification their first measure, such as mean IoU or R², takes the place of accuracy.

    Args:
        evaluations: curve name -> result of :func:`rheobase.evaluate`.

    Raises:
        DataError: if an evaluation has no accuracy, because its data had no labels, or tasks differ.
    """
    _refuse_empty(evaluations, "evaluations")
    tasks = {evaluation.task for evaluation in evaluations.values()}
    if len(tasks) > 1:
        reason = f"have the tasks {', '.join(sorted(tasks))}"
        raise DataError(reason, where="evaluations", remedy="draw one task at a time")
    measure = TASKS[tasks.pop()].measures[0]
    for name, evaluation in evaluations.items():
        if measure.name not in evaluation.ann_scores:
            raise DataError(f"has no {measure.heading} to draw", where=name, remedy="evaluate on labelled data")
    steps = sorted({row.timesteps for evaluation in evaluations.values() for row in evaluation.rows})
    ann = {name: measure.scale * found.ann_scores[measure.name] for name, found in evaluations.items()}
    dashed = {"linestyle": "--", "linewidth": 1.2}
    with _drawing(path) as axes:
        for name, evaluation in evaluations.items():
            score = [measure.scale * row.scores[measure.name] for row in evaluation.rows]
            (curve,) = axes.plot([row.timesteps for row in evaluation.rows], score, marker="o", label=name)
            if len(set(ann.values())) > 1:
                axes.axhline(ann[name], color=curve.get_color(), label=f"analog network of {name}", **dashed)
        if len(set(ann.values())) == 1:
            axes.axhline(ann[name], color="0.35", label=f"analog network, {measure.form.format(ann[name])}", **dashed)
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, steps)
        axes.minorticks_off()
        axes.set(xlabel="time-steps T", ylabel=measure.title)
        axes.legend(loc="lower right")


def potential_plot(potentials: Potentials, path: str | Path, *, channel: int | None = None, bins: int = 100) -> None:
    """Draw the histogram of membrane potentials before firing, with a line at the threshold.

    Args:
        potentials: result of :func:`rheobase.measure.potentials`.
        channel: index of the only channel to draw; default all.
        bins: number of bins.
    """
    values = potentials.of(channel)
    if len(values) == 0:
        raise DataError("has only silent channels", where=potentials.site, remedy="choose another site or channel")
    which = "all channels" if channel is None else f"channel {channel}"
    fires = 100 * float((values >= 1).double().mean())
    with _drawing(path) as axes:
        counts, edges = potentials.histogram(bins, channel)
        axes.stairs(counts.tolist(), edges.tolist(), fill=True, alpha=0.75, label="neurons × images")
        axes.axvline(1.0, color="0.25", linestyle="--", linewidth=1.2, label="threshold θ")
        axes.set(xlabel="potential before firing (in units of θ)", ylabel="count")
        axes.set_title(f"{potentials.site}, {which}, step {potentials.step}: {fires:.1f} % fire")
        axes.legend(loc="upper right")


def unevenness_plot(results: Mapping[str, Unevenness], path: str | Path) -> None:
    """Draw the unevenness error of every site, with one bar for each network (QVM, Fig. 3).

    Args:
        results: name -> result of :func:`rheobase.measure.unevenness`; all with the same sites.
    """
    sites = _common_sites({name: [row.site for row in result.rows] for name, result in results.items()}, "results")
    bars = {f"{name}, mean {found.error:.2g}": [row.error for row in found.rows] for name, found in results.items()}
    with _drawing(path, _wide(sites)) as axes:
        _grouped_bars(axes, bars)
        _name_sites(axes, sites)
        axes.set_ylabel("unevenness error ξ")
        axes.legend(loc="upper left")


def diagnosis_plot(diagnosis: Diagnosis, path: str | Path) -> None:
    """Draw the error of every site (:func:`rheobase.diagnose`) as a stack of its terms.

    The height of a term is its share, relative to the mean activation; it is negative if the term compensates others.
    The sum of the terms is the error, drawn as a line.
    """
    rows, sites = diagnosis.rows, [row.site for row in diagnosis.rows]
    heights = np.array([[row.percent(row.terms[name].share) for row in rows] for name in diagnosis.terms])
    above, below = heights.clip(min=0), heights.clip(max=0)
    bottoms = np.where(heights >= 0, above.cumsum(0) - above, below.cumsum(0) - below)
    with _drawing(path, _wide(sites)) as axes:
        for i, name in enumerate(diagnosis.terms):
            if heights[i].any():
                axes.bar(range(len(rows)), heights[i], bottom=bottoms[i], label=name, color=f"C{i}")
        axes.plot([row.percent(row.error.size) for row in rows], "o-", color="0.25", linewidth=1.2, label="error")
        _name_sites(axes, sites)
        axes.set(ylabel="error (% of the mean activation)", title=diagnosis.title)
        axes.margins(y=0.45)  # room for the legend
        axes.legend(loc="upper left")


def level_metric_plot(
    metrics: LevelMetric | Mapping[str, LevelMetric], path: str | Path, *, levels: Mapping[str, int] | None = None
) -> None:
    """Draw the AL metric of each site (PASCAL, Fig. 1), or one curve for each α (Fig. 3).

    A site with an infinite metric (its activation is constant) is marked by a cross at the upper edge.

    Args:
        metrics: result of :func:`rheobase.methods.level_metric`, or several by name, from
            :meth:`rheobase.methods.LevelMetric.sweep`.
        levels: L of the sites, written below their names.
    """
    curves = {"": metrics} if isinstance(metrics, LevelMetric) else dict(metrics)
    sites = _common_sites({name: list(metric.values) for name, metric in curves.items()}, "metrics")
    names = sites if levels is None else [f"{site}\nL = {levels[site]}" for site in sites]
    with _drawing(path) as axes:
        for name, metric in curves.items():
            values = [value if isfinite(value) else nan for value in metric.values.values()]
            alpha = "α = 1/(L + 1)" if metric.alpha is None else f"α = {metric.alpha:.3g}"
            (curve,) = axes.plot(values, marker="o", label=f"{name} ({alpha})" if name else alpha)
            beyond = [i for i, value in enumerate(values) if not isfinite(value)]
            at_the_edge = axes.get_xaxis_transform()
            top = [1.0] * len(beyond)
            axes.plot(beyond, top, "x", color=curve.get_color(), clip_on=False, transform=at_the_edge, markersize=6)
        axes.set_xticks(range(len(sites)), names, rotation=90, fontsize="small")
        axes.set(ylabel="AL metric M", title=f"{next(iter(curves.values())).images} images")
        axes.legend(loc="best")


def site_steps(network: SpikingNetwork | TrainableGraph) -> dict[str, tuple[int | None, int]]:
    """Return (L, T) of every site, in execution order: levels of the trained activation, and time-steps.

    A network before conversion has T = L. L is None if the activation has no levels.
    """
    if isinstance(network, TrainableGraph):
        return {name: (part.levels, part.levels) for name, part in network.activations.items()}
    return {site.name: (site.levels, network.steps_of(site.name)) for site in network.sites}


def steps_plot(networks: Mapping[str, SpikingNetwork | TrainableGraph], path: str | Path) -> None:
    """Draw the time-steps of every site, and the bits of its trained levels (QAC, Fig. 1).

    Args:
        networks: name -> network, converted or quantised; all with the same sites.
    """
    tables = {name: site_steps(network) for name, network in networks.items()}
    sites = _common_sites({name: list(table) for name, table in tables.items()}, "networks")
    steps = {name: [t for _, t in table.values()] for name, table in tables.items()}
    with _drawing(path, _wide(sites, 5.6), nrows=2, sharex=True) as (above, below):
        _grouped_bars(above, {f"{name}, mean {statistics.fmean(t):.3g}": t for name, t in steps.items()})
        for table in tables.values():
            bits = [nan if levels is None else log2(levels) for levels, _ in table.values()]
            below.plot(bits, marker="o", linewidth=1.2)
        above.yaxis.set_major_locator(MaxNLocator(integer=True))
        above.set_ylabel("time-steps T")
        above.legend(loc="upper right")
        below.set_ylabel("bits of the levels, log₂ L")
        below.set_ylim(bottom=-0.1)
        _name_sites(below, sites)


def distribution_plot(
    results: Mapping[str, Distribution], path: str | Path, *, sites: Sequence[str] | None = None
) -> None:
    """Draw histograms of analog activations and spiking time-means, one row per result and one column per site.

    DA calibration, Figs. 1, 3 and 4. Zeros are not drawn; the legend gives their fractions.

    Args:
        results: name -> result of :func:`rheobase.measure.distribution`.
        sites: sites to draw; default the second, the middle and the last one.

    Raises:
        DataError: if a site does not exist.
    """
    _refuse_empty(results, "results")
    if sites is None:
        names = [row.site for row in next(iter(results.values())).rows]
        sites = list(dict.fromkeys(names[i] for i in (min(1, len(names) - 1), len(names) // 2, -1)))
    tables = {name: {row.site: row for row in result.rows} for name, result in results.items()}
    for name, rows in tables.items():
        for site in sites:
            if site not in rows:
                raise DataError(f"has no site {site!r}", where=name, remedy=f"choose from {', '.join(rows)}")
    size = (4 * max(1, len(sites)), 2.9 * len(results))
    with _drawing(path, size, nrows=len(results), ncols=max(1, len(sites)), squeeze=False) as panels:
        for row_of_panels, (name, rows) in zip(panels, tables.items(), strict=True):
            for axes, site in zip(row_of_panels, sites, strict=True):
                row = rows[site]
                for label, histogram in (("ANN", row.ann), ("SNN", row.snn)):
                    shares = (100 * histogram.shares()[1:]).tolist()
                    zeros = f"{label}, zeros {100 * histogram.sparsity:.1f} %, mean {histogram.mean:.2g}"
                    axes.stairs(shares, row.edges, fill=True, alpha=0.5, label=zeros)
                axes.set_yscale("log")
                axes.set_title(f"{name}, {site}: divergence {row.divergence:.3f}", fontsize="small")
                axes.legend(fontsize="x-small")
            row_of_panels[0].set_ylabel("neurons × images (%)")
        for axes in panels[-1]:
            axes.set_xlabel("activation, time-mean of the output")


@contextmanager
def _drawing(path: str | Path, size: tuple[float, float] = (6.4, 4.2), **layout: Any) -> Iterator[Any]:
    """Yield the axes of a new figure, arranged as by :meth:`Figure.subplots`; at the end write the figure."""
    with rc_context(STYLE):
        path, figure = user_path(path), Figure(figsize=size)
        yield figure.subplots(**layout)
        try:
            figure.savefig(path)
        except OSError as error:
            reason, remedy = error.strerror or error, "choose another path"
            raise StoreError(f"cannot be written ({reason})", where=str(path), remedy=remedy) from None
        except ValueError as error:
            raise StoreError(f"cannot be written ({error})", where=str(path), remedy="end the name in .png") from None


def _refuse_empty(given: Mapping[str, Any], where: str) -> None:
    if not given:
        raise DataError("is empty", where=where, remedy=f"give at least one of the {where}")


def _common_sites(sites: Mapping[str, list[str]], where: str) -> list[str]:
    """The sites of all networks; refuse none and networks with different ones."""
    _refuse_empty(sites, where)
    first = next(iter(sites.values()))
    for name, own in sites.items():
        if own != first:
            raise DataError("has other sites than the first", where=name, remedy="draw it in a separate plot")
    return first


def _wide(sites: list[str], height: float = 4.2) -> tuple[float, float]:
    return max(6.4, 0.35 * len(sites)), height


def _name_sites(axes: Axes, sites: list[str]) -> None:
    axes.set_xticks(range(len(sites)), sites, rotation=60, ha="right", fontsize="small")


def _grouped_bars(axes: Axes, groups: Mapping[str, Sequence[float]]) -> None:
    """Draw the bars of several networks next to each other at every site."""
    width = 0.8 / len(groups)
    for i, (label, heights) in enumerate(groups.items()):
        places = [n + (i - (len(groups) - 1) / 2) * width for n in range(len(heights))]
        axes.bar(places, heights, width=width, label=label)
    axes.margins(y=0.25)  # room for the legend
