"""Accuracy of every method that needs no training, at several numbers of time-steps, on real networks and data.

    python benchmarks/post_training.py resnet20 --images 10000 FTBC 4 8 16 32
    python benchmarks/post_training.py efficientnet --images 200 FTBC,AP,LP 8 16 32
    python benchmarks/post_training.py resnet20 --table

Calibrated for each T on 512 training images (the ImageNet sample's other 200), of which a fifth is held out; the
methods use 128 to 384 of them. A network whose parameters do not depend on T (max, percentile, OPI) is converted once
and read out at every T of one simulation. ``--images``: how many test images, the first of a seeded shuffle; of more
than 1000, the accuracy on the first 1000 is kept too, to compare with methods that were measured on those. Every
result is added to the file beside this script as soon as it is there, in place of an older one on no more images.
``--table`` prints that file as tables.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from common import HERE, cifar, efficientnet_lite0, imagenet_sample, record, resnet20
from torch import Tensor

import rheobase as rb

METHODS: dict[str, Callable[[int], rb.Recipe]] = {
    "max": lambda t: rb.RateCoding(timesteps=t, threshold="max", initial_potential=0),
    "percentile": lambda t: rb.RateCoding(timesteps=t, threshold="percentile", initial_potential=0),
    "OPI": lambda t: rb.OPI(timesteps=t),
    "RTS": lambda t: rb.RTS(timesteps=t),
    "uncalibrated": lambda t: rb.RateCoding(timesteps=t),
    "LP": lambda t: rb.SNNCalibration(timesteps=t, pipeline="light"),
    "AP": lambda t: rb.SNNCalibration(timesteps=t, pipeline="advanced"),
    "FTBC": lambda t: rb.FTBC(timesteps=t, batches=3),
    "FTBC-even": lambda t: rb.FTBC(timesteps=t, batches=3, ramp=0),
    "FTBC-paper": lambda t: rb.FTBC(timesteps=t, batches=3, ramp=0, updates=1, iterations=10),
    # batch by batch and to the end, as in Algorithm 1 and Table 6; FTBC-paper pools its batches and may stop early
    "FTBC-published": lambda t: rb.FTBC(
        timesteps=t, ramp=0, alpha=0.2, updates=1, iterations=10, pooled=False, patience=None
    ),
    "FTBC-paper-scaled": lambda t: rb.FTBC(timesteps=t, batches=3, ramp=0, updates=1, iterations=10, scale=True),
}


ANY_T = ("max", "percentile", "OPI")
"""Their parameters do not depend on T."""
TABLE = (1, 2, 4, 8, 16, 32, 64, 128)
COMMON = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("resnet20", "efficientnet"))
    parser.add_argument("--images", type=int, default=COMMON)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("methods", nargs="?", default="", help=", ".join(METHODS))
    parser.add_argument("timesteps", type=int, nargs="*")
    arguments = parser.parse_intermixed_args()
    path = HERE / f"post_training_{arguments.case}.json"
    if arguments.table:
        print(table(json.loads(path.read_text())["result"]))
        return
    if arguments.case == "resnet20":
        model, calibration = resnet20(), cifar("train", limit=512, seed=0)
        test = cifar("test", limit=arguments.images, seed=0)
        options: dict[str, dict[str, int]] = {}
    else:
        model = efficientnet_lite0()
        calibration, test = imagenet_sample(arguments.images)
        options = few(max(arguments.timesteps))
    for method in arguments.methods.split(","):
        steps = arguments.timesteps
        for readouts in [tuple(steps)] if method in ANY_T else [(t,) for t in steps]:
            recipe = METHODS[method](max(readouts))
            recipe = with_options(recipe, options.get(method, {}))
            start = time.perf_counter()
            network = rb.convert(model, recipe, calibration=calibration)
            seconds = time.perf_counter() - start
            command = f"python benchmarks/post_training.py {arguments.case} --images {len(test[0])} {method}"
            for timesteps, row in measure(network, test, readouts).items():
                row |= {
                    "calibration_seconds": round(seconds, 1),
                    "notes": [n for p in network.provenance.passes[1:] for n in p["notes"]],
                }
                add(path, f"{command} {' '.join(map(str, readouts))}", f"{method} T={timesteps}", row)


def measure(network: rb.SpikingNetwork, test: tuple[Tensor, Tensor], timesteps: tuple[int, ...]) -> dict[int, dict]:
    """Means over the test images, for each T."""
    parts = [part for part in zip(*(x.tensor_split([COMMON]) for x in test), strict=True) if len(part[0])]
    results = [rb.evaluate(network, part, timesteps=timesteps) for part in parts]
    images = sum(result.images for result in results)
    measured = {}
    for i, t in enumerate(sorted(timesteps)):
        measured[t] = {
            name: sum(getattr(result.rows[i], name) * result.images for result in results) / images
            for name in ("accuracy", "agreement", "spike_rate")
        }
        measured[t]["ann"] = sum(result.ann_accuracy * result.images for result in results) / images
        measured[t]["images"] = images
        if len(results) > 1:
            measured[t][f"accuracy on the first {COMMON}"] = results[0].rows[i].accuracy
    return measured


def table(rows: dict[str, dict]) -> str:
    """Accuracies, methods by T; a number of images for each that was not measured on all of the first 1000."""
    lines = [f"| method | {' | '.join(f'T = {t}' for t in TABLE)} |", "| --- |" + " --: |" * len(TABLE)]
    seconds = [f"| calibration, s | {' | '.join(f'T = {t}' for t in TABLE)} |", "| --- |" + " --: |" * len(TABLE)]
    for method in METHODS:
        found = [rows.get(f"{method} T={t}") for t in TABLE]
        cells = [None if row is None or _other_images(row) else row for row in found]
        if any(cells):
            lines.append(f"| {method} | {' | '.join(map(_cell, cells))} |")
            taken = [None if cell is None else cell["calibration_seconds"] for cell in cells]
            seconds.append(f"| {method} | {' | '.join('-' if s is None else f'{s:.0f}' for s in taken)} |")
    return "\n".join([*lines, "", *seconds])


def _other_images(row: dict) -> bool:
    """Measured on more images than the others, without the accuracy on the common ones."""
    return row["images"] > COMMON and f"accuracy on the first {COMMON}" not in row


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    accuracy = row.get(f"accuracy on the first {COMMON}", row["accuracy"])
    few = f" ({row['images']})" if row["images"] < COMMON else ""
    return f"{100 * accuracy:.1f}{few}"


def few(timesteps: int) -> dict[str, dict[str, int]]:
    """Options by method for EfficientNet-Lite0 and 160 images; LP and AP hold what a layer emits at every step."""
    images = 16 if timesteps < 64 else 8
    return {
        "FTBC": {"batch_size": 32, "batches": 1, "iterations": 2},
        "LP": {"images": images},
        "AP": {"images": images},
    }


def with_options(recipe: rb.Recipe, options: dict[str, int]) -> rb.Recipe:
    """The recipe with these options in every pass that has them."""
    fields = recipe.to_dict()
    for part in fields["calibration"]:
        part |= {name: value for name, value in options.items() if name in part}
    return rb.Recipe.from_dict(fields)


def add(path: Path, command: str, name: str, row: dict) -> None:
    """Add one result to the file."""
    print(name, row, flush=True)
    rows = json.loads(path.read_text())["result"] if path.exists() else {}
    if name not in rows or rows[name]["images"] <= row["images"]:
        rows[name] = {**row, "command": command}
        record(path, "each row has its own", rows)


if __name__ == "__main__":
    main()
