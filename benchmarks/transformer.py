"""A small vision transformer on CIFAR-10 JPEG: trained once, then converted without training.

    python benchmarks/transformer.py --train runs/transformer  # half an hour of a core; goes on where it stopped
    python benchmarks/transformer.py runs/transformer --images 10000 2:16 4:4 4:8 8:4

LayerNorm, GELU and attention compute on numbers, every weighted layer but the first reads spikes (``sites="all"``; with
``--sites products`` attention reads spikes too). Rows are added to ``transformer.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from common import CIFAR, HERE, cifar, record

import rheobase as rb
from rheobase import zoo
from rheobase.exchange import checkpoints as models

PATH = HERE / "transformer.json"
TRAINING = rb.Training(
    epochs=10,
    learning_rate=1e-3,
    batch_size=128,
    optimiser="adamw",
    weight_decay=0.05,
    warmup_epochs=1,
    label_smoothing=0.1,
    clip=1.0,
    augment=rb.training.Augmentation(mean=CIFAR.mean, std=CIFAR.std),
)


def trained(folder: Path) -> torch.nn.Module:
    """The network, trained in this folder once; the last epoch is kept, so that nothing is chosen."""
    if not (weights := folder / "weights.safetensors").exists():
        torch.manual_seed(0)  # of the initial weights
        rb.train(zoo.vit(), cifar("train"), TRAINING, validation=0.02, folder=folder, seed=0, progress=True)
    return models.load("rheobase.zoo:vit", weights).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the training")
    parser.add_argument("cells", nargs="*", metavar="T:M", help="time-steps and magnitude of Graded")
    parser.add_argument("--train", action="store_true", help="only train")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--sites", default="all", choices=("all", "products"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = trained(given.folder)
    if given.train:
        return
    calibration, test = cifar("train", limit=1000, seed=0), cifar("test", limit=given.images, seed=0)
    results = json.loads(PATH.read_text())["result"] if PATH.exists() else {}
    for cell in given.cells:
        timesteps, magnitude = map(int, cell.split(":"))
        start = time.perf_counter()
        recipe = rb.Graded(timesteps=timesteps, magnitude=magnitude)
        snn = rb.convert(network, recipe, calibration=calibration, nonlinear="numbers", sites=given.sites)
        seconds = time.perf_counter() - start
        found = rb.evaluate(snn, test, timesteps=[timesteps])
        energy = rb.energy(snn, test[0][:100])
        results[f"T = {timesteps}, m = {magnitude}, {given.sites}, {given.images} images"] = row = {
            "analog": round(100 * found.ann_accuracy, 2),
            "spiking": round(100 * found.rows[-1].accuracy, 2),
            "operations on spikes": round(energy.on_spikes, 4),
            "energy": round(energy.ratio, 3),
            "seconds of calibration": round(seconds, 1),
        }
        print(cell, row, flush=True)
        record(PATH, "python benchmarks/transformer.py", results)


if __name__ == "__main__":
    main()
