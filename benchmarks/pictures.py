"""The pictures of the README and of docs/results.md, from the results next to this script.

    python benchmarks/pictures.py

Reads comparison_resnet20.jsonl, comparison_efficientnet.jsonl and graded.jsonl, takes means over the seeds, and writes
SVG files to docs/pictures.
"""

from __future__ import annotations

import io
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rheobase.core.lines import read_lines

HERE = Path(__file__).parent
PICTURES = HERE.parent / "docs" / "pictures"
ANN = 89.12
DARK = "@media (prefers-color-scheme: dark) {svg {filter: invert(0.9) hue-rotate(180deg) brightness(1.2)}}"

Curve = dict[int, float]
LINES = {  # colour, line, label; the point that the label is at, its offset and alignment
    "Graded, −4..4": ("#0b5394", "-", "Graded, −4..4", 2, (-8, 0), "right"),
    "Graded, −1..1": ("#3d85c6", "-", "Graded, −1..1", 2, (6, -8), "left"),
    "Pascal": ("#7a7a7a", "--", "trained (Pascal, QVM)", 1, (8, -5), "left"),
    "FTBC": ("#b45f06", "-", "FTBC", 4, (6, -8), "left"),
    "uncalibrated": ("#990000", "-", "rate coding", 8, (6, -8), "left"),
}


def cells(network: str) -> Iterator[dict[str, Any]]:
    """The conversions of a comparison."""
    for line in read_lines(HERE / f"comparison_{network}.jsonl"):
        cell = json.loads(line)
        if cell["status"] == "done":
            yield cell


def curves() -> dict[str, Curve]:
    """Accuracy of ResNet-20 in percent by method and T."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for cell in cells("resnet20"):
        found[cell["method"], cell["timesteps"]].append(100 * cell["test"]["accuracy"])
    for line in read_lines(HERE / "graded.jsonl"):
        run = json.loads(line)
        found[f"Graded, −{run['magnitude']}..{run['magnitude']}", run["timesteps"]].append(100 * run["accuracy"])
    by_method: dict[str, Curve] = defaultdict(dict)
    for (method, timesteps), values in sorted(found.items()):
        by_method[method][timesteps] = statistics.mean(values)
    return by_method


def draw_readme() -> None:
    """A few methods on ResNet-20."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axes.axhline(ANN, color="#444444", linewidth=0.8)
    before = f"the network before conversion, {ANN} %"
    axes.annotate(before, (32, ANN), (0, 4), textcoords="offset points", ha="right", color="#444444")
    by_method = curves()
    for method, (colour, line, label, at, offset, side) in LINES.items():
        curve = by_method[method]
        axes.plot(list(curve), list(curve.values()), line, color=colour, marker="o", markersize=4)
        axes.annotate(label, (at, curve[at]), offset, textcoords="offset points", color=colour, ha=side, va="center")
    axes.set_xscale("log", base=2)
    axes.set_xticks((1, 2, 4, 8, 16, 32), labels=("1", "2", "4", "8", "16", "32"))
    axes.set_xlim(0.95, 34)
    axes.set_ylim(15, 95)
    axes.set_xlabel("time-steps T")
    axes.set_ylabel("accuracy, %")
    axes.set_title("ResNet-20 on CIFAR-10 (JPEG), 10,000 test images", loc="left", fontsize=10)
    save(figure, "accuracy.svg")


def draw_methods(network: str, ann: float, title: str) -> None:
    """All methods of a comparison, against T and against energy, with their names at the ends of the lines."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells(network):
        point = cell["test"]["energy_ratio"], 100 * cell["test"]["accuracy"]
        found[cell["method"]][cell["timesteps"]].append(point)
    by_method = {
        method: {t: tuple(map(statistics.mean, zip(*points, strict=True))) for t, points in sorted(of_steps.items())}
        for method, of_steps in sorted(found.items())
        if len(of_steps) > 1 and method != "Pascal"  # which is QVM here
    }
    figure, (against_steps, against_energy) = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    for axes in (against_steps, against_energy):
        axes.set_xscale("log", base=2)
    colours = [*plt.get_cmap("tab10").colors, "#333333", "#d4a000", "#5b2a86", "#00897b"]
    for colour, points in zip(colours, by_method.values(), strict=False):
        energies, accuracies = zip(*points.values(), strict=True)
        against_steps.plot(list(points), accuracies, "-o", color=colour, markersize=3)
        against_energy.plot(energies, accuracies, "-o", color=colour, markersize=3)
    for axes, first in ((against_steps, True), (against_energy, False)):
        ends = {}
        for colour, (method, points) in zip(colours, by_method.items(), strict=False):
            x = max(points) if first else max(energy for energy, _ in points.values())
            ends[method] = x, points[max(points)][1], colour
        axes.axhline(ann, color="#444444", linewidth=0.8)
        label_ends(axes, ends, max(x for x, _, _ in ends.values()))
    against_steps.set_xticks((1, 2, 4, 8, 16, 32), labels=("1", "2", "4", "8", "16", "32"))
    against_steps.set_xlabel("time-steps T")
    against_energy.set_xlabel("energy / energy of the analog network")
    against_energy.xaxis.set_major_formatter("{x:.2g}")
    against_steps.set_ylabel("accuracy, %")
    against_steps.set_title(f"{title}; line: before conversion, {ann} %", loc="left", fontsize=10)
    save(figure, f"methods_{network}.svg")


def save(figure: Figure, name: str) -> None:
    """Write a picture without background; on a dark page, its colours are inverted except for their hue."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    style = f'<style type="text/css">{DARK}'
    assert svg.count('<style type="text/css">') == 1
    (PICTURES / name).write_text(svg.replace('<style type="text/css">', style))


def label_ends(axes: Any, ends: dict[str, tuple[float, float, Any]], right: float, gap: float = 3.6) -> None:
    """Names at the right edge, ordered like the ends of their lines and at least ``gap`` apart."""
    at = 100.0 + gap
    for method, (x, y, colour) in sorted(ends.items(), key=lambda item: -item[1][1]):
        at = min(at - gap, y)
        axes.annotate(
            "Pascal, QVM" if method == "QVM" else method,
            (x, y),
            (right * 1.3, at),
            color=colour,
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0, 0.5)},
            annotation_clip=False,
        )
    axes.set_xlim(right=right * 1.1)
    axes.set_ylim(bottom=min(at, 0) - 3, top=93)


def main() -> None:
    plt.rcParams.update(
        {"font.size": 10, "svg.hashsalt": "rheobase", "axes.spines.top": False, "axes.spines.right": False}
    )
    PICTURES.mkdir(exist_ok=True)
    draw_readme()
    draw_methods("resnet20", ANN, "ResNet-20 on CIFAR-10 (JPEG), 10,000 test images")
    draw_methods("efficientnet", 88.0, "EfficientNet-Lite0 on 100 ImageNet images")


if __name__ == "__main__":
    main()
