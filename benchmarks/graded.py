"""ResNet-20 with graded spikes that can be taken back: accuracy, spikes and energy by alphabet and T (docs/graded.md).

    python benchmarks/graded.py                                # 10,000 test images
    python benchmarks/graded.py --cells 2:1,4:1 --seeds 0,1,2
    python benchmarks/graded.py --table

A cell is T:m, calibrated with 512 unlabelled training images. The yardstick is the closed form with as many levels,
n = m T (``ParallelConversion`` without error calibration), which waits at every site. Cells replace those of the same
kind in the file next to this script. For EfficientNet-Lite0 see linear_sites.py.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from common import HERE, cifar, resnet20
from tabulate import tabulate

import rheobase as rb
from rheobase.core.lines import read_lines
from rheobase.core.versions import versions

CELLS = "2:1,4:1,8:1,16:1,2:2,4:2,8:2,2:4,4:4"
KEY = ("method", "magnitude", "timesteps", "images", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=CELLS, help="T:m, separated by commas")
    parser.add_argument("--levels", type=int, help="n; default: m T")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--images", type=int, default=10_000, help="test images, a seeded sample")
    parser.add_argument("--yardstick", action="store_true", help="the closed form instead")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    kept = HERE / "graded.jsonl"
    cells = [json.loads(line) for line in read_lines(kept)]
    if not arguments.table:
        for cell in measure(arguments):
            cells = [old for old in cells if any(old[key] != cell[key] for key in KEY)] + [cell]
            kept.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    print(table(cells))


def measure(arguments: argparse.Namespace) -> Any:
    """Yield a cell for every T:m and seed."""
    model, test = resnet20(), cifar("test", limit=arguments.images, seed=0)
    images, _ = cifar("train", limit=10_000, seed=0)
    for seed in map(int, arguments.seeds.split(",")):
        for cell in arguments.cells.split(","):
            steps, magnitude = map(int, cell.split(":"))
            if arguments.yardstick:
                recipe = rb.ParallelConversion(timesteps=steps * magnitude, errors=False)
            else:
                recipe = rb.Graded(timesteps=steps, magnitude=magnitude, levels=arguments.levels)
            start = time.perf_counter()
            snn = rb.convert(model, recipe, calibration=images, num_calibration_images=512, seed=seed)
            seconds = time.perf_counter() - start
            found = rb.evaluate(snn, test).rows[-1]
            energy = rb.energy(snn, test[0][:64])
            yield {
                "method": recipe.name,
                "timesteps": steps,
                "magnitude": magnitude,
                "levels": arguments.levels or steps * magnitude,
                "seed": seed,
                "images": len(test[0]),
                "accuracy": found.accuracy,
                "spike_rate": found.spike_rate,
                "event_rate": found.event_rate,
                "energy_ratio": energy.ratio,
                "calibration_seconds": seconds,
                "notes": [note for record in snn.provenance.passes for note in record["notes"]],
                "versions": versions(),
            }


def table(cells: list[dict[str, Any]]) -> str:
    """One row for each cell, as Markdown."""
    rows = [
        {
            "method": cell["method"],
            "alphabet": f"−{cell['magnitude']}..{cell['magnitude']}",
            **{name: cell[name] for name in ("timesteps", "seed", "images")},
            "accuracy, %": f"{100 * cell['accuracy']:.2f}",
            "events / neuron / step": f"{cell['event_rate']:.3f}",
            "spikes / neuron / step": f"{cell['spike_rate']:.3f}",
            "energy / ANN": f"{cell['energy_ratio']:.2f}",
            "calibration, s": f"{cell['calibration_seconds']:.0f}",
        }
        for cell in sorted(cells, key=lambda cell: [cell[key] for key in KEY])
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
