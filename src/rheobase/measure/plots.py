"""Figures of results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, log2, nan
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from rheobase.activations.activation import INITIAL_POTENTIAL
from rheobase.core.errors import DataError, StoreError
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure._diagnose import TERMS, Diagnosis
from rheobase.measure._distribution import Distribution
from rheobase.measure._evaluate import Evaluation
from rheobase.measure._input_scenarios import InputScenarios, Scenario
from rheobase.measure._potentials import Potentials
from rheobase.measure._stability import Stability
from rheobase.measure._unevenness import Unevenness
from rheobase.methods.adaptive_levels import LevelMetric
from rheobase.network.spiking_network import SpikingNetwork


def accuracy_plot(evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Draw accuracy against time-steps, with a dashed line for the analog network.

    Args:
        evaluations: curve name -> result of :func:`rheobase.evaluate`.
        path: file to write; the suffix selects the format (``.png``, ``.pdf``, ``.svg``).

    Raises:
        DataError: if there are no evaluations, or one has no accuracy because its data had no labels.
        StoreError: if the file cannot be written.

    Example:
        >>> accuracy_plot({"RateCoding": rb.evaluate(snn, test)}, "accuracy.png")  # doctest: +SKIP
    """
    if not evaluations:
        raise DataError("is empty", where="evaluations", remedy="give at least one evaluation")
    for name, evaluation in evaluations.items():
        if evaluation.ann_accuracy is None or any(row.accuracy is None for row in evaluation.rows):
            raise DataError("has no accuracy to draw", where=name, remedy="evaluate on labelled data")
    figure, axes = _figure()
    _draw_curves(axes, evaluations)
    _label(axes, sorted({row.timesteps for e in evaluations.values() for row in e.rows}))
    _finish(figure, axes, path)


def stability_plot(stability: Stability, path: str | Path) -> None:
    """Draw accuracy (without labels: agreement with the analog network) against calibration iterations.

    Args:
        stability: result of :func:`rheobase.measure.stability`.
        path: file to write; the suffix selects the format.

    Raises:
        StoreError: if the file cannot be written.

    Example:
        >>> stability_plot(rb.measure.stability(net, train), "stability.png")  # doctest: +SKIP
    """
    figure, axes = _figure()
    labelled = all(point.accuracy is not None for curve in stability.curves.values() for point in curve)
    for t, curve in stability.curves.items():
        values = [100 * (point.accuracy or 0.0) if labelled else 100 * point.agreement for point in curve]
        axes.plot([p.iteration for p in curve], values, marker="o", markersize=4, linewidth=1.6, label=f"T = {t}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("calibration iterations")
    axes.set_ylabel(f"{'accuracy' if labelled else 'agreement with the analog network'} (%)")
    axes.set_title(f"{stability.images} held-out calibration images", fontsize="medium")
    _finish(figure, axes, path)


def potential_plot(potentials: Potentials, path: str | Path, *, channel: int | None = None, bins: int = 100) -> None:
    """Draw the histogram of membrane potentials before firing, with a line at the threshold.

    Args:
        potentials: result of :func:`rheobase.measure.potentials`.
        path: file to write; the suffix selects the format.
        channel: index of the only channel to draw; default all.
        bins: number of bins.

    Raises:
        DataError: if every channel is silent.
        StoreError: if the file cannot be written.

    Example:
        >>> potential_plot(rb.measure.potentials(snn, images, "relu", 4), "potentials.png")  # doctest: +SKIP
    """
    values = potentials.of(channel)
    if len(values) == 0:
        raise DataError("has only silent channels", where=potentials.site, remedy="choose another site or channel")
    figure, axes = _figure()
    counts, edges = potentials.histogram(bins, channel)
    axes.stairs(counts.tolist(), edges.tolist(), fill=True, alpha=0.75, label="neurons × images")
    axes.axvline(1.0, color="0.25", linestyle="--", linewidth=1.2, label="threshold θ")
    axes.set_xlabel("potential before firing (in units of θ)")
    axes.set_ylabel("count")
    which = "all channels" if channel is None else f"channel {channel}"
    fires = 100 * float((values >= 1).double().mean())
    axes.set_title(f"{potentials.site}, {which}, step {potentials.step}: {fires:.1f} % fire", fontsize="medium")
    _finish(figure, axes, path, legend="upper right")


def unevenness_plot(results: Mapping[str, Unevenness], path: str | Path) -> None:
    """Draw the unevenness error of every site, with one bar for each network (QVM, Fig. 3).

    Args:
        results: name -> result of :func:`rheobase.measure.unevenness`; all with the same sites.
        path: file to write; the suffix selects the format.

    Raises:
        DataError: if there are no results, or the networks have different sites.
        StoreError: if the file cannot be written.

    Example:
        >>> unevenness_plot({"IF": rb.measure.unevenness(snn, images)}, "unevenness.png")  # doctest: +SKIP
    """
    if not results:
        raise DataError("is empty", where="results", remedy="give at least one result")
    sites = [row.site for row in next(iter(results.values())).rows]
    for name, result in results.items():
        if [row.site for row in result.rows] != sites:
            raise DataError("has other sites than the first result", where=name, remedy="draw it in a separate plot")
    figure, axes = _figure()
    figure.set_figwidth(max(6.4, 0.35 * len(sites)))
    width = 0.8 / len(results)
    for i, (name, result) in enumerate(results.items()):
        places = [n + (i - (len(results) - 1) / 2) * width for n in range(len(sites))]
        label = f"{name}, mean {result.error:.2g}"
        axes.bar(places, [row.error for row in result.rows], width=width, label=label, zorder=3)
    axes.set_xticks(range(len(sites)), sites, rotation=60, ha="right", fontsize="small")
    axes.set_ylabel("unevenness error ξ")
    axes.margins(y=0.25)  # room for the legend
    _finish(figure, axes, path, legend="upper left")


def diagnosis_plot(diagnosis: Diagnosis, path: str | Path) -> None:
    """Draw the error of every site as a stack of its terms.

    The height of a term is its share, relative to the mean activation; it is negative if the term compensates others.
    The sum of the terms is the error, drawn as a line.

    Args:
        diagnosis: result of :func:`rheobase.diagnose`.
        path: file to write; the suffix selects the format.

    Raises:
        StoreError: if the file cannot be written.

    Example:
        >>> diagnosis_plot(rb.diagnose(snn, images), "diagnosis.png")  # doctest: +SKIP
    """
    figure, axes = _figure()
    rows = diagnosis.rows
    figure.set_figwidth(max(6.4, 0.35 * len(rows)))
    places = range(len(rows))
    above, below = [0.0] * len(rows), [0.0] * len(rows)
    for i, name in enumerate(TERMS):
        heights = [100 * row.terms[name].share / (row.activation or 1.0) for row in rows]
        if not any(heights):
            continue
        bottoms = [above[n] if h >= 0 else below[n] for n, h in enumerate(heights)]
        axes.bar(places, heights, bottom=bottoms, label=name, color=f"C{i}", zorder=3)
        for n, height in enumerate(heights):
            (above if height >= 0 else below)[n] += height
    errors = [100 * row.error.size / (row.activation or 1.0) for row in rows]
    axes.plot(places, errors, "o-", color="0.25", markersize=4, linewidth=1.2, label="error", zorder=4)
    axes.set_xticks(places, [row.site for row in rows], rotation=60, ha="right", fontsize="small")
    axes.set_ylabel("error (% of the mean activation)")
    axes.set_title(f"{diagnosis.method}, T = {diagnosis.timesteps}, {diagnosis.images} images", fontsize="medium")
    axes.margins(y=0.45)  # room for the legend
    _finish(figure, axes, path, legend="upper left")


def scenario_plot(result: InputScenarios, path: str | Path) -> None:
    """Draw spike counts against the mean input, and the error's distribution, for four kinds of input (QVM, Fig. 6).

    Upper row: neurons of the first trial, with the quantised activation as a line. Lower row: |a − φ| over the neurons
    of all trials.

    Args:
        result: result of :func:`rheobase.measure.input_scenarios`.
        path: file to write; the suffix selects the format.

    Raises:
        StoreError: if the file cannot be written.

    Example:
        >>> scenario_plot(rb.measure.input_scenarios(trials=10), "scenarios.png")  # doctest: +SKIP
    """
    figure = Figure(figsize=(12, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, len(result.scenarios), sharex="row", sharey="row")
    for i, (name, scenario) in enumerate(result.scenarios.items()):
        _draw_counts(above[i], result, scenario)
        above[i].set_title(f"{'ANN' if name == 'ann' else name} input", fontsize="medium")
        gaps = (scenario.counts - result.levels).abs().flatten()
        share = 100 * gaps.bincount(minlength=result.timesteps + 1) / len(gaps)
        below[i].bar(range(result.timesteps + 1), share.tolist(), zorder=3)
        below[i].set_title(f"mean |a − φ| = {statistics.fmean(scenario.errors):.4f}", fontsize="medium")
        below[i].set_xlabel("|a − φ| (in units of θ/T)")
    above[0].set_ylabel("spikes in T steps")
    below[0].set_ylabel("neurons (%)")
    _save(figure, [*above, *below], path)


def _draw_counts(axes: Axes, result: InputScenarios, scenario: Scenario) -> None:
    z = result.mean_input[0] / result.threshold
    potential = INITIAL_POTENTIAL[result.settings["rounding"]]
    edges = [-1.0, *((level - potential) / result.timesteps for level in range(1, result.timesteps + 1)), 2.0]
    levels = range(result.timesteps + 1)
    axes.stairs(levels, edges, baseline=None, color="0.35", linewidth=1.2, label="quantised activation")
    correlation = f"R = {statistics.fmean(scenario.correlations):.4f}" if scenario.correlations else "spiking layer"
    axes.plot(z, scenario.counts[0], ".", markersize=3, alpha=0.5, label=correlation)
    axes.set_xlim(-1, 2)  # the activation is constant outside
    axes.set_xlabel("mean input z / θ")
    axes.legend(frameon=False, loc="upper left", fontsize="small")


def level_metric_plot(
    metrics: LevelMetric | Mapping[str, LevelMetric], path: str | Path, *, levels: Mapping[str, int] | None = None
) -> None:
    """Draw the AL metric of each site (PASCAL, Fig. 1), or one curve for each α (Fig. 3).

    A site with an infinite metric (its activation is constant) is marked by a cross at the upper edge.

    Args:
        metrics: result of :func:`rheobase.methods.level_metric`, or several by name, from
            :meth:`rheobase.methods.LevelMetric.sweep`.
        path: file to write; the suffix selects the format.
        levels: L of the sites, written below their names.

    Raises:
        DataError: if there are no metrics, or the networks have different sites.
        StoreError: if the file cannot be written.

    Example:
        >>> level_metric_plot(found, "metric.png", levels=found.assign((8, 4)))  # doctest: +SKIP
        >>> level_metric_plot(found.sweep((1, 0.75, 0.5)), "alpha.png")  # doctest: +SKIP
    """
    single = isinstance(metrics, LevelMetric)
    curves = {f"α = {metrics.alpha:.3g}": metrics} if isinstance(metrics, LevelMetric) else dict(metrics)
    if not curves:
        raise DataError("is empty", where="metrics", remedy="give at least one metric")
    sites = list(next(iter(curves.values())).values)
    if any(list(metric.values) != sites for metric in curves.values()):
        raise DataError("are of networks with different sites", where="metrics", remedy="draw them in separate plots")
    figure, axes = _figure()
    for name, metric in curves.items():
        values = list(metric.values.values())
        label = name if single else f"{name} (α = {metric.alpha:.3g})"
        drawn = [value if isfinite(value) else nan for value in values]
        (curve,) = axes.plot(range(len(sites)), drawn, marker="o", markersize=4, linewidth=1.6, label=label)
        beyond = [i for i, value in enumerate(values) if not isfinite(value)]
        axes.plot(
            beyond,
            [1.0] * len(beyond),
            "x",
            color=curve.get_color(),
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )
    names = sites if levels is None else [f"{site}\nL = {levels[site]}" for site in sites]
    axes.set_xticks(range(len(sites)), names, rotation=90, fontsize="small")
    axes.set_ylabel("AL metric M")
    axes.set_title(f"{next(iter(curves.values())).images} images", fontsize="medium")
    _finish(figure, axes, path, legend="best")


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
        path: file to write; the suffix selects the format.

    Raises:
        DataError: if there are no networks, or they have different sites.
        StoreError: if the file cannot be written.

    Example:
        >>> steps_plot({"QAC, mean T = 3": snn}, "steps.png")  # doctest: +SKIP
    """
    if not networks:
        raise DataError("is empty", where="networks", remedy="give at least one network")
    tables = {name: site_steps(network) for name, network in networks.items()}
    sites = list(next(iter(tables.values())))
    for name, table in tables.items():
        if list(table) != sites:
            raise DataError("has other sites than the first network", where=name, remedy="draw it in a separate plot")
    figure = Figure(figsize=(max(6.4, 0.35 * len(sites)), 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True)
    width = 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        places = [n + (i - (len(tables) - 1) / 2) * width for n in range(len(sites))]
        steps = [t for _, t in table.values()]
        bits = [nan if levels is None else log2(levels) for levels, _ in table.values()]
        above.bar(places, steps, width=width, label=f"{name}, mean {statistics.fmean(steps):.3g}", zorder=3)
        below.plot(places, bits, marker="o", markersize=4, linewidth=1.2, zorder=3)
    above.yaxis.set_major_locator(MaxNLocator(integer=True))
    above.set_ylabel("time-steps T")
    above.margins(y=0.25)  # room for the legend
    above.legend(frameon=False, loc="upper right")
    below.set_ylabel("bits of the levels, log₂ L")
    below.set_ylim(bottom=-0.1)
    below.set_xticks(range(len(sites)), sites, rotation=60, ha="right", fontsize="small")
    _save(figure, [above, below], path)


def distribution_plot(
    results: Mapping[str, Distribution], path: str | Path, *, sites: Sequence[str] | None = None
) -> None:
    """Draw histograms of analog activations and spiking time-means, one row per result and one column per site.

    DA calibration, Figs. 1, 3 and 4. Zeros are not drawn; the legend gives their fractions.

    Args:
        results: name -> result of :func:`rheobase.measure.distribution`.
        path: file to write; the suffix selects the format.
        sites: sites to draw; default the second, the middle and the last one.

    Raises:
        DataError: if there are no results, or a site does not exist.
        StoreError: if the file cannot be written.

    Example:
        >>> distribution_plot({"FS-PC": rb.measure.distribution(snn, images)}, "distribution.png")  # doctest: +SKIP
    """
    if not results:
        raise DataError("is empty", where="results", remedy="give at least one result")
    names = [row.site for row in next(iter(results.values())).rows]
    chosen = list(dict.fromkeys(names[i] for i in (min(1, len(names) - 1), len(names) // 2, -1)))
    chosen = chosen if sites is None else list(sites)
    figure = Figure(figsize=(4 * max(1, len(chosen)), 2.9 * len(results)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(results), max(1, len(chosen)), squeeze=False)
    for row_of_panels, (name, result) in zip(panels, results.items(), strict=True):
        rows = {row.site: row for row in result.rows}
        for axes, site in zip(row_of_panels, chosen, strict=True):
            if site not in rows:
                raise DataError(f"has no site {site!r}", where=name, remedy=f"choose from {', '.join(rows)}")
            row = rows[site]
            for label, histogram in (("ANN", row.ann), ("SNN", row.snn)):
                shares = (100 * histogram.shares()[1:]).tolist()
                zeros = f"{label}, zeros {100 * histogram.sparsity:.1f} %, mean {histogram.mean:.2g}"
                axes.stairs(shares, row.edges, fill=True, alpha=0.5, label=zeros)
            axes.set_yscale("log")
            axes.set_title(f"{name}, {site}: divergence {row.divergence:.3f}", fontsize="small")
            axes.legend(frameon=False, fontsize="x-small")
        row_of_panels[0].set_ylabel("neurons × images (%)")
    for axes in panels[-1]:
        axes.set_xlabel("activation, time-mean of the output")
    _save(figure, panels.flatten().tolist(), path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(
    figure: Figure,
    axes: Axes,
    path: str | Path,
    legend: Literal["lower right", "upper right", "upper left", "best"] = "lower right",
) -> None:
    axes.legend(frameon=False, loc=legend)
    _save(figure, [axes], path)


def _save(figure: Figure, panels: Iterable[Axes], path: str | Path) -> None:
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path)
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})", where=str(path), remedy="choose another path"
        ) from None
    except ValueError as error:
        raise StoreError(f"cannot be written ({error})", where=str(path), remedy="end the name in .png") from None


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
