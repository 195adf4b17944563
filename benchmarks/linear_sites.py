"""EfficientNet-Lite0 with graded spikes, at the activations only or at linear outputs too: accuracy and energy.

    python benchmarks/linear_sites.py all 4 --levels 12 --ridge 0.3
    python benchmarks/linear_sites.py activations 8 --levels 24
    python benchmarks/linear_sites.py --table

Calibrated on the 200 images of the ImageNet sample that are not tested (a fifth held out), without labels, tested on
the other 800 or on the first ``--images`` of a seeded shuffle. Spikes of −m..m, n levels (``--levels``, default m · T),
and with ``--ridge`` weights fitted by regression. Every result is added to the file beside this script, in place of an
earlier one of the same arguments. ``--table`` prints that file.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from common import HERE, efficientnet_lite0, imagenet_sample, record

import rheobase as rb
from rheobase.methods import GradedNeuron, Recipe
from rheobase.passes import Thresholds, WeightRegression

PATH = HERE / "linear_sites.json"
ENERGY_IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sites", nargs="?", choices=("activations", "all"), default="all")
    parser.add_argument("timesteps", type=int, nargs="?", default=4)
    parser.add_argument("--magnitude", type=int, default=4)
    parser.add_argument("--levels", type=int)
    parser.add_argument("--ridge", type=float)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    rows = json.loads(PATH.read_text())["result"] if PATH.exists() else []
    if not given.table:
        asked = {name: value for name, value in vars(given).items() if name != "table"}
        rows = [row for row in rows if {name: row[name] for name in asked} != asked]
        rows.append({**asked, **measured(given)})
        rows.sort(key=lambda row: (row["sites"], row["timesteps"], row["ridge"] or 0))
        record(PATH, "python benchmarks/linear_sites.py SITES T [--levels n] [--ridge λ]", rows)
    print(table(rows))


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Accuracy of both networks, energy by magnitude and seconds of one conversion."""
    calibration, (images, labels) = imagenet_sample(given.images)
    net = efficientnet_lite0()
    passes = (Thresholds(levels=given.levels),)
    if given.ridge is not None:
        passes += (WeightRegression(ridge=given.ridge),)
    part = GradedNeuron(magnitude=given.magnitude)
    recipe = Recipe(name="Graded", timesteps=given.timesteps, neuron=part, calibration=passes)
    began = time.perf_counter()
    snn = rb.convert(net, recipe, calibration=calibration[0], sites=given.sites)
    seconds = time.perf_counter() - began
    found = rb.evaluate(snn, (images, labels))
    spent = {costs: rb.energy(snn, images[:ENERGY_IMAGES], costs=costs) for costs in ("fp32-45nm", "int8-45nm")}
    one = spent["fp32-45nm"]
    return {
        "num_sites": len(snn.sites),
        "accuracy": found.rows[-1].accuracy,
        "ann_accuracy": found.ann_accuracy,
        "energy": {costs: energy.ratio for costs, energy in spent.items()},
        **{name: getattr(one, name) for name in ("macs", "acs", "updates", "spikes", "events", "ann_macs")},
        "layers_with_macs": sum(row.macs > 0 for row in one.rows),
        "seconds": seconds,
        "notes": [note for record in snn.provenance.passes for note in record["notes"]],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each result."""
    lines = ["| sites | T | m | n | ridge | accuracy | ANN | energy | layers with MACs |", "| --- |" + " --- |" * 8]
    for row in rows:
        levels = row["levels"] or row["magnitude"] * row["timesteps"]
        lines.append(
            f"| {row['sites']} | {row['timesteps']} | {row['magnitude']} | {levels} | {row['ridge'] or ''} | "
            f"{100 * row['accuracy']:.1f} | {100 * row['ann_accuracy']:.1f} | {row['energy']['fp32-45nm']:.2f} | "
            f"{row['layers_with_macs']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
