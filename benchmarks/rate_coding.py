"""Accuracy of the classical conversion at several numbers of time-steps, on real networks and data.

    python benchmarks/rate_coding.py resnet20 8 8:scale 16 16:scale 32:scale   # 10,000 CIFAR test images
    python benchmarks/rate_coding.py efficientnet 32 64   # 800 images of the ImageNet sample

``T``, or ``T:scale`` for ScaleThresholds after the least-squares ones. Thresholds are set for each T on 512 training
images (the sample's other 200). Every result is added to the file beside this script as soon as it is there.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from common import HERE, cifar, efficientnet_lite0, imagenet_sample, record, resnet20

import rheobase as rb


def main() -> None:
    case, *settings = sys.argv[1:]
    if case == "resnet20":
        model, calibration, test = resnet20(), cifar("train", limit=512, seed=0), cifar("test")
    else:
        model = efficientnet_lite0()
        calibration, test = imagenet_sample()
    for setting in settings:
        timesteps, _, scale = setting.partition(":")
        recipe = rb.RateCoding(timesteps=int(timesteps), scale=scale == "scale")
        start = time.perf_counter()
        network = rb.convert(model, recipe, calibration=calibration, progress=True)
        seconds = time.perf_counter() - start
        result = rb.evaluate(network, test, timesteps=(recipe.timesteps,), progress=True)
        row = result.rows[0]
        add(
            case,
            setting,
            {
                "accuracy": row.accuracy,
                "agreement": row.agreement,
                "ann": result.ann_accuracy,
                "sites": len(network.sites),
                "images": result.images,
                "convert_seconds": round(seconds, 1),
                "data_sha256": result.data_sha256,
            },
        )


def add(case: str, setting: str, row: dict[str, Any]) -> None:
    """Add one result to the file, in place of an older one for the same setting."""
    print(case, setting, row, flush=True)
    path = HERE / f"rate_coding_{case}.json"
    rows = json.loads(path.read_text())["result"] if path.exists() else {}
    rows[setting] = row
    record(path, f"python benchmarks/rate_coding.py {case} {' '.join(rows)}", rows)


if __name__ == "__main__":
    main()
