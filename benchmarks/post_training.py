"""Accuracy of every method that needs no training, at several numbers of time-steps, on real networks and data.

    python benchmarks/post_training.py resnet20 --images 10000 FTBC 4 8 16 32
    python benchmarks/post_training.py efficientnet FTBC,AP,LP 8 16 32

Calibrated for each T on 512 training images (the ImageNet sample's other 200), of which a fifth is held out; the
methods use 128 to 384 of them. ``--images``: how many test images, the first of a seeded shuffle. Every result is added
to the file beside this script as soon as it is there, in place of an older one on no more images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from common import HERE, cifar, efficientnet_lite0, imagenet_sample, record, resnet20

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
    "FTBC-scaled": lambda t: rb.FTBC(timesteps=t, batches=3, scale=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("resnet20", "efficientnet"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("methods", help=", ".join(METHODS))
    parser.add_argument("timesteps", type=int, nargs="+")
    arguments = parser.parse_args()
    if arguments.case == "resnet20":
        model, calibration = resnet20(), cifar("train", limit=512, seed=0)
        test = cifar("test", limit=arguments.images, seed=0)
        options = {}
    else:
        model = efficientnet_lite0()
        calibration, test = imagenet_sample()
        # 160 images to fit on; more simulated at once than this do not fit into the memory of the machine
        options = {"FTBC": {"batch_size": 64, "batches": 1}, "LP": {"images": 16}, "AP": {"images": 16}}
    for method in arguments.methods.split(","):
        for timesteps in arguments.timesteps:
            recipe = METHODS[method](timesteps)
            if method in options:
                recipe = type(recipe).from_dict(_with(recipe.to_dict(), options[method]))
            start = time.perf_counter()
            network = rb.convert(model, recipe, calibration=calibration)
            seconds = time.perf_counter() - start
            result = rb.evaluate(network, test, timesteps=(timesteps,))
            row = result.rows[0]
            add(
                HERE / f"post_training_{arguments.case}.json",
                f"python benchmarks/post_training.py {arguments.case} --images {result.images} {method} {timesteps}",
                f"{method} T={timesteps}",
                {
                    "accuracy": row.accuracy,
                    "agreement": row.agreement,
                    "spike_rate": row.spike_rate,
                    "ann": result.ann_accuracy,
                    "images": result.images,
                    "calibration_seconds": round(seconds, 1),
                    "notes": [n for p in network.provenance.passes[1:] for n in p["notes"]],
                },
            )


def _with(recipe: dict, options: dict) -> dict:
    for part in recipe["calibration"]:
        part |= {name: value for name, value in options.items() if name in part}
    return recipe


def add(path: Path, command: str, name: str, row: dict) -> None:
    """Add one result to the file."""
    print(name, row, flush=True)
    rows = json.loads(path.read_text())["result"] if path.exists() else {}
    if name not in rows or rows[name]["images"] <= row["images"]:
        rows[name] = {**row, "command": command}
        record(path, "each row has its own", rows)


if __name__ == "__main__":
    main()
