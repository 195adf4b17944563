"""Every method and baseline side by side on real networks: accuracy, latency, energy, seconds (docs/results.md).

    python benchmarks/comparison.py resnet20 runs/comparison
    python benchmarks/comparison.py resnet20 runs/comparison --methods FTBC,QVM --timesteps 2,4,8 --seeds 0,1,2
    python benchmarks/comparison.py efficientnet runs/comparison-eff --images 100 --timesteps 8,16,32
    python benchmarks/comparison.py resnet20 --table

It is ``rb.compare`` with 512 calibration images for each method and seed (of the ImageNet sample 100), from 10,000
training images (the 200 that are not for testing), on which the methods with training are fine-tuned for three epochs
besides (the 200 in batches of 16: three steps would be no training). The folder holds the page and goes on where it was
stopped; the cells replace those of the same method, T and seed in the file next to this script too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import post_training
import torch
from common import CIFAR, HERE, IMAGENET, cifar, efficientnet_lite0, imagenet_sample, resnet20

import rheobase as rb
from rheobase.comparison.cells import Cell
from rheobase.comparison.folder import RESULTS_FILE
from rheobase.comparison.results_file import read
from rheobase.core.lines import read_lines

WITHOUT_TRAINING = ("max", "percentile", "OPI", "RTS", "uncalibrated", "LP", "AP", "FTBC")
METHODS: dict[str, rb.Recipe] = {
    **{name: post_training.METHODS[name](1) for name in WITHOUT_TRAINING},  # rb.compare sets T
    "SNM": rb.SNM(),
    "SNM, floor": rb.SNM(firing="floor"),
    "Burst": rb.Burst(),
    "AdaFire": rb.AdaFire(),
    "MultiThreshold": rb.MultiThreshold(),
    "Graded": rb.Graded(magnitude=1),
    "Graded, −2..2": rb.Graded(magnitude=2),
    "ParallelConversion": rb.ParallelConversion(),
    "DAParallel": rb.DAParallel(),
    "QVM": rb.QVM(),
    "Pascal": rb.Pascal(),
    "QAC": rb.QAC(granularity="channel"),
}
NUM_CALIBRATION_IMAGES = {"resnet20": 512, "efficientnet": 100}
"""Calibration images."""
ENERGY_IMAGES = {"resnet20": 64, "efficientnet": 16}
BATCH_SIZE = {"resnet20": 128, "efficientnet": 16}
"""Of the training; its learning rate is 0.02 for 128 images, and in proportion (Goyal et al. 2017)."""
TIMESTEPS = (1, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("resnet20", "efficientnet"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--timesteps", default=",".join(map(str, TIMESTEPS)))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--images", type=int, default=10_000, help="test images, the first of a seeded shuffle")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    kept = HERE / f"comparison_{arguments.case}.jsonl"
    if arguments.table:
        print(tables(read(kept)))
        return
    if arguments.folder is None:
        parser.error("say in which folder")
    model, calibration, test = setting(arguments.case, arguments.images)
    pixels = CIFAR if arguments.case == "resnet20" else IMAGENET
    methods = {name: METHODS[name] for name in arguments.methods.split(";" if ";" in arguments.methods else ",")}
    batch_size = BATCH_SIZE[arguments.case]
    training = rb.Training(
        epochs=3,
        learning_rate=0.02 * batch_size / 128,
        batch_size=batch_size,
        augment=rb.training.Augmentation(mean=pixels.mean, std=pixels.std),
    )
    if arguments.case == "efficientnet":
        options = post_training.few(max(TIMESTEPS))
        methods = {name: post_training.with_options(recipe, options.get(name, {})) for name, recipe in methods.items()}
    found = rb.compare(
        model,
        methods,
        calibration,
        test,
        [int(t) for t in arguments.timesteps.split(",")],
        seeds=[int(seed) for seed in arguments.seeds.split(",")],
        training=training if any(recipe.activation is not None for recipe in methods.values()) else None,
        folder=arguments.folder,
        num_calibration_images=NUM_CALIBRATION_IMAGES[arguments.case],
        energy_images=ENERGY_IMAGES[arguments.case],
        name={"resnet20": "ResNet-20", "efficientnet": "EfficientNet-Lite0"}[arguments.case],
        progress=True,
    )
    print(found)
    cells = [json.loads(line) for file in (kept, arguments.folder / RESULTS_FILE) for line in read_lines(file)]
    newest = {(cell["method"], cell["timesteps"], cell["seed"]): cell for cell in cells}
    kept.write_text(
        "".join(json.dumps(cell, separators=(",", ":"), ensure_ascii=False) + "\n" for cell in newest.values())
    )


def setting(case: str, images: int) -> tuple[torch.nn.Module, tuple, tuple]:
    """Network, calibration data and test data."""
    if case == "resnet20":
        return resnet20(), cifar("train", limit=10_000, seed=0), cifar("test", limit=images, seed=0)
    return efficientnet_lite0(), *imagenet_sample(images)


def tables(cells: list[Cell]) -> str:
    """Methods by T, one table for each quantity; means over seeds, and the sample deviation where there are several.

    Seconds are those of seed 0 alone: the other seeds ran at other times, beside other jobs.
    """
    quantities: dict[str, tuple[Callable[[Cell], float | None], str]] = {
        "accuracy, %": (lambda cell: cell.test and cell.test.accuracy and 100 * cell.test.accuracy, "{:.2f}"),
        "steps to the final answer": (lambda cell: cell.latency and cell.latency.final, "{:.0f}"),
        "the same if layers streamed": (lambda cell: cell.latency and cell.latency.streaming, "{:.0f}"),
        "energy / that of the ANN": (lambda cell: cell.test and cell.test.energy_ratio, "{:.2f}"),
        "calibration, s": (lambda cell: cell.calibration_seconds, "{:.0f}"),
        "training, s": (lambda cell: cell.training_seconds, "{:.0f}"),
    }
    written_tables = []
    for quantity, (value, form) in quantities.items():
        lines = []
        for method in METHODS:
            row = []
            for t in TIMESTEPS:
                mine = [cell for cell in cells if (cell.method, cell.timesteps, cell.status) == (method, t, "done")]
                if quantity.endswith(", s"):
                    mine = [cell for cell in mine if cell.seed == 0]
                values = [number for cell in mine if (number := value(cell)) is not None]
                row.append(written(values, form, "accuracy" in quantity))
            if any(cell != "-" for cell in row):
                lines.append(f"| {method} | {' | '.join(row)} |")
        head = [f"| {quantity} | {' | '.join(f'T = {t}' for t in TIMESTEPS)} |", "| --- |" + " --: |" * len(TIMESTEPS)]
        written_tables += ["\n".join(head + lines)] if lines else []
    return "\n\n".join(written_tables)


def written(values: list[float], form: str, deviation: bool) -> str:
    if not values:
        return "-"
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {form.format(statistics.stdev(values))}" if deviation and len(values) > 1 else mean


if __name__ == "__main__":
    main()
