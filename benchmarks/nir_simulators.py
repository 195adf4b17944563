"""Spike counts of ResNet-20 in sinabs and snnTorch, neuron by neuron, on 100 images of CIFAR-10.

Needs the extra ``simulators`` and sinabs (see ``.ci/run``). The network is converted with a method that NIR can say
exactly, its thresholds folded into the weights.

    python benchmarks/nir_simulators.py [--images 100] [--timesteps 8]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from common import HERE, cifar, record, resnet20

import rheobase as rb

sys.path.append(str(HERE.parent / "tests" / "simulators"))
import readers


def compared(snn: rb.SpikingNetwork, images: torch.Tensor, simulator: str, sub_batch: int = 20) -> dict[str, float]:
    """Spike counts that differ, the images in which they do, and the largest difference of a logit."""
    total: dict[str, float] = {"spike counts": 0, "different": 0, "in images": 0, "logits": 0.0}
    for some in images.split(sub_batch):
        with tempfile.TemporaryDirectory() as folder:
            found = readers.compare(snn, Path(folder) / "net.nir", some, simulator)
            one_by_one = some.split(1) if found.different else ()
            in_images = sum(
                readers.compare(snn, Path(folder) / "one.nir", x, simulator).different > 0 for x in one_by_one
            )
        total["spike counts"] += found.counts
        total["different"] += found.different
        total["in images"] += in_images
        total["logits"] = max(total["logits"], found.logits)
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--timesteps", type=int, default=8)
    arguments = parser.parse_args()
    calibration, _ = cifar("train", limit=512, seed=0)
    images, labels = cifar("test", limit=arguments.images, seed=0)
    result: dict[str, object] = {"images": arguments.images, "timesteps": arguments.timesteps}
    for recipe in (rb.RTS(timesteps=arguments.timesteps), rb.SNNCalibration(timesteps=arguments.timesteps)):
        snn = rb.network.fold_thresholds(rb.convert(resnet20(), recipe, calibration=calibration))
        result[f"{recipe.name}: accuracy"] = float((snn(images).argmax(1) == labels).float().mean())
        for simulator in readers.RUN:
            name = f"{recipe.name} in {simulator} {version(simulator)}"
            result[name] = compared(snn, images, simulator)
            print(name, result[name])
    record(HERE / "nir_simulators.json", "python benchmarks/nir_simulators.py", result)


if __name__ == "__main__":
    main()
