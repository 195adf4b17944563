"""What a comparison costs: constants measured on a small grid, and the seconds they predict for a larger one.

    python benchmarks/scaling.py                  # measures, predicts a grid that was not measured, runs it, compares
    python benchmarks/scaling.py --imagenet       # the seconds of a full comparison from the constants kept in the file

A cell costs its calibration and its evaluation. Both are linear in T for methods that simulate, and constant for the
closed form: calibration = c0 + c1 T for a given number of calibration images, evaluation = images (e0 + e1 T). The four
constants of a method come from T = 2 and 8 on 200 images; the grid that is predicted has T = 4 and 16 and 400 images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from common import HERE, cifar, record, resnet20

import rheobase as rb

FILE = HERE / "scaling.json"
METHODS: dict[str, Callable[[int], rb.Recipe]] = {
    "RateCoding": lambda t: rb.RateCoding(timesteps=t),
    "FTBC": lambda t: rb.FTBC(timesteps=t),
    "Graded": lambda t: rb.Graded(timesteps=t),
    "ParallelConversion": lambda t: rb.ParallelConversion(timesteps=t),
}
FITTED, PREDICTED = ((2, 8), 200), ((4, 16), 400)
"""Numbers of time-steps, and test images."""


def ann_seconds() -> float:
    """Seconds of the analog network for an image, in batches of 100."""
    images, _ = cifar("test", limit=200, seed=0)
    graph = rb.graph.capture(resnet20(), images[:4]).graph
    with torch.inference_mode():
        graph(images[:100])
        start = time.perf_counter()
        for _ in range(5):
            for part in images.split(100):
                graph(part)
    return (time.perf_counter() - start) / (5 * len(images))


def cell(name: str, timesteps: int, images: int) -> tuple[float, float]:
    """Seconds to convert, and to evaluate."""
    calibration, test = cifar("train", limit=512, seed=0)[0], cifar("test", limit=images, seed=0)
    start = time.perf_counter()
    snn = rb.convert(resnet20(), METHODS[name](timesteps), calibration=calibration)
    middle = time.perf_counter()
    rb.evaluate(snn, test, timesteps=(timesteps,))
    return middle - start, time.perf_counter() - middle


def fit(name: str, ann: float) -> dict[str, float]:
    """The constants of a method, in seconds of the analog network for an image."""
    (first, last), images = FITTED
    cell(name, first, 100)  # compiles neurons
    (c_first, e_first), (c_last, e_last) = cell(name, first, images), cell(name, last, images)
    c1, e1 = (c_last - c_first) / (last - first), (e_last - e_first) / (last - first)
    constants = {"c0": c_first - first * c1, "c1": c1, "e0": (e_first - first * e1) / images, "e1": e1 / images}
    return {key: round(value / ann, 3) for key, value in constants.items()}


def predicted(constants: dict[str, float], timesteps: int, images: int) -> float:
    """Seconds of the analog network for an image that a cell costs."""
    calibration = constants["c0"] + constants["c1"] * timesteps
    return calibration + images * (constants["e0"] + constants["e1"] * timesteps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", action="store_true")
    given = parser.parse_args()
    if given.imagenet:
        imagenet(json.loads(FILE.read_text())["result"]["constants"])
        return
    torch.set_num_threads(1)
    ann = ann_seconds()
    constants = {name: fit(name, ann) for name in METHODS}
    rows = {}
    for name in METHODS:
        for timesteps in PREDICTED[0]:
            measured = sum(cell(name, timesteps, PREDICTED[1])) / ann
            expected = predicted(constants[name], timesteps, PREDICTED[1])
            rows[f"{name}, T = {timesteps}"] = {"predicted": round(expected), "measured": round(measured)}
            print(name, timesteps, rows[f"{name}, T = {timesteps}"], flush=True)
    total = {key: sum(row[key] for row in rows.values()) for key in ("predicted", "measured")}
    result = {"ANN, ms / image": round(1e3 * ann, 3), "constants": constants, "cells": rows, "total": total}
    record(FILE, "python benchmarks/scaling.py", result)
    print(json.dumps(result, indent=1))
    imagenet(constants)


def imagenet(constants: dict[str, dict[str, float]], images: int = 50_000, seeds: int = 3) -> None:
    """Runs of the analog network over one image that a comparison on ImageNet costs, by method."""
    for name, own in constants.items():
        cells = [predicted(own, t, images) for t in (1, 2, 4, 8, 16, 32)]
        print(f"{name}: {seeds * sum(cells) / images:.0f} times the analog network on {images} images")


if __name__ == "__main__":
    main()
