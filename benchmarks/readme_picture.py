"""The picture of the README: accuracy of ResNet-20 against T, from the results next to this script.

    python benchmarks/readme_picture.py

Reads comparison_resnet20.jsonl and graded.jsonl, takes the mean over the seeds, and writes docs/pictures/accuracy.svg.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "pictures" / "accuracy.svg"
ANN = 89.12

Curve = dict[int, float]
LINES = {  # colour, line, label; the point that the label is at, its offset and alignment
    "Graded, −4..4": ("#0b5394", "-", "Graded, −4..4", 2, (-8, 0), "right"),
    "Graded, −1..1": ("#3d85c6", "-", "Graded, −1..1", 2, (6, -8), "left"),
    "Pascal": ("#7a7a7a", "--", "trained (Pascal, QVM)", 1, (8, -5), "left"),
    "FTBC": ("#b45f06", "-", "FTBC", 4, (6, -8), "left"),
    "uncalibrated": ("#990000", "-", "rate coding", 8, (6, -8), "left"),
}


def curves() -> dict[str, Curve]:
    """Accuracy in percent by method and T."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for line in (HERE / "comparison_resnet20.jsonl").read_text().splitlines():
        cell = json.loads(line)
        if cell["status"] == "done":
            found[cell["method"], cell["timesteps"]].append(100 * cell["test"]["accuracy"])
    for line in (HERE / "graded.jsonl").read_text().splitlines():
        run = json.loads(line)
        found[f"Graded, −{run['magnitude']}..{run['magnitude']}", run["timesteps"]].append(100 * run["accuracy"])
    by_method: dict[str, Curve] = defaultdict(dict)
    for (method, timesteps), values in sorted(found.items()):
        by_method[method][timesteps] = statistics.mean(values)
    return by_method


def draw() -> None:
    plt.rcParams.update(
        {"font.size": 10, "svg.hashsalt": "rheobase", "axes.spines.top": False, "axes.spines.right": False}
    )
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
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    draw()
