"""What a comparison costs: constants measured on a small grid, and what they predict for cells that were not measured.

    python benchmarks/scaling.py                  # measures, predicts other cells and another network, runs them
    python benchmarks/scaling.py --imagenet       # the cost of a full comparison from the constants kept in the file

A cell costs its calibration and its evaluation. Both are linear in T for methods that simulate, and constant for the
closed form: calibration = c0 + c1 T for 100 calibration images, evaluation = images (e0 + e1 T). The four constants of
a method come from ResNet-20 on images of 32×32, with T = 2 and 8 and 200 test images, in units of that network's own
seconds for an image. Predicted are ResNet-20 with T = 4 and 16 and 400 images, and EfficientNet-Lite0 with T = 2 on
images of 224×224, by the same constants and its own seconds for an image: the step that an estimate for ImageNet takes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from common import HERE, cifar, efficientnet_lite0, imagenet_sample, record, resnet20
from torch import Tensor, nn

import rheobase as rb

FILE = HERE / "scaling.json"
METHODS: dict[str, Callable[[int], rb.Recipe]] = {
    "RateCoding": lambda t: rb.RateCoding(timesteps=t),
    "FTBC": lambda t: rb.FTBC(timesteps=t),
    "Graded": lambda t: rb.Graded(timesteps=t),
    "ParallelConversion": lambda t: rb.ParallelConversion(timesteps=t),
}
CALIBRATION = 100
FITTED = (2, 8), 200
"""Numbers of time-steps, and test images, of the cells that the constants come from."""
PREDICTED: dict[str, tuple[tuple[str, ...], tuple[int, ...], int]] = {
    "ResNet-20": (tuple(METHODS), (4, 16), 400),
    "EfficientNet-Lite0": (("RateCoding", "FTBC", "ParallelConversion"), (2,), 60),
}
"""Methods, numbers of time-steps, and test images, of the cells that are predicted and then measured."""


class Case(NamedTuple):
    """A network and its data."""

    build: Callable[[], nn.Module]
    calibration: Tensor
    test: tuple[Tensor, Tensor]


def cases() -> dict[str, Case]:
    """The two networks."""
    small = Case(resnet20, cifar("train", limit=CALIBRATION, seed=0)[0], cifar("test", limit=400, seed=0))
    calibration, test = imagenet_sample(60)
    return {"ResNet-20": small, "EfficientNet-Lite0": Case(efficientnet_lite0, calibration[0][:CALIBRATION], test)}


def ann_seconds(case: Case, batch: int) -> float:
    """Seconds of the analog network for an image, in batches."""
    images = case.test[0]
    graph = rb.graph.capture(case.build(), images[:4]).graph
    with torch.inference_mode():
        graph(images[:batch])
        start = time.perf_counter()
        for part in (parts := images.split(batch)):
            graph(part)
    return (time.perf_counter() - start) / (len(parts) * batch)


def cell(case: Case, name: str, timesteps: int, images: int) -> tuple[float, float]:
    """Seconds to convert, and to evaluate."""
    start = time.perf_counter()
    snn = rb.convert(case.build(), METHODS[name](timesteps), calibration=case.calibration)
    middle = time.perf_counter()
    inputs, labels = case.test
    rb.evaluate(snn, (inputs[:images], labels[:images]), timesteps=(timesteps,))
    return middle - start, time.perf_counter() - middle


def fit(case: Case, name: str, ann: float) -> dict[str, float]:
    """The constants of a method, in seconds of the analog network for an image."""
    (first, last), images = FITTED
    cell(case, name, first, 100)  # compiles neurons
    (c_first, e_first), (c_last, e_last) = (cell(case, name, t, images) for t in (first, last))
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
    networks = cases()
    anns = {"ResNet-20": ann_seconds(networks["ResNet-20"], 100)}
    anns["EfficientNet-Lite0"] = ann_seconds(networks["EfficientNet-Lite0"], 20)
    constants = {name: fit(networks["ResNet-20"], name, anns["ResNet-20"]) for name in METHODS}
    rows: dict[str, dict[str, int]] = {}
    totals = {}
    for network, (methods, steps, images) in PREDICTED.items():
        own = {}
        for name in methods:
            for timesteps in steps:
                measured = sum(cell(networks[network], name, timesteps, images)) / anns[network]
                expected = predicted(constants[name], timesteps, images)
                key = f"{network}, {name}, T = {timesteps}"
                own[key] = {"predicted": round(expected), "measured": round(measured)}
                print(key, own[key], flush=True)
        totals[network] = {key: sum(row[key] for row in own.values()) for key in ("predicted", "measured")}
        rows |= own
    milliseconds = {name: round(1e3 * seconds, 3) for name, seconds in anns.items()}
    result = {"ANN, ms / image": milliseconds, "constants": constants, "cells": rows, "totals": totals}
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
