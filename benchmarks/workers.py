"""A comparison in one and in two processes: speed-up, seconds a cell costs beside its work, the same results.

    python benchmarks/workers.py

ResNet-20 on CIFAR-10 JPEG, methods without training at T = 2 and 4 on 500 test images. All processes use one thread, so
that their results are the same to the bit.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import HERE, cifar, record, resnet20

import rheobase as rb

RECIPES = [rb.OPI(), rb.RTS(), rb.RateCoding(), rb.SNM()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="test images")
    parser.add_argument("--workers", default="1,2")
    given = parser.parse_args()
    torch.set_num_threads(1)
    calibration, test = cifar("train", limit=512, seed=0), cifar("test", limit=given.images, seed=0)
    found, rows = {}, {}
    for workers in map(int, given.workers.split(",")):
        for attempt in ("first", "again"):  # the second finds the processes started
            start = time.perf_counter()
            result = rb.compare(
                resnet20(),
                RECIPES,
                calibration,
                test,
                (2, 4),
                num_calibration_images=128,
                workers=workers,
                energy_images=32,
            )
            seconds = time.perf_counter() - start
            rows[f"{workers} workers, {attempt}"] = {"seconds": round(seconds, 1), "cells": len(result.cells)}
        found[workers] = [cell.test for cell in result.cells]
        print(rows, flush=True)
    same = all(cells == found[1] for cells in found.values())
    ratio = rows["1 workers, again"]["seconds"] / rows["2 workers, again"]["seconds"] if {1, 2} <= {*found} else None
    record(HERE / "workers.json", "python benchmarks/workers.py", {**rows, "same results": same, "speed-up": ratio})
    print("same results:", same, "speed-up:", ratio)


if __name__ == "__main__":
    main()
