"""A small vision transformer on CIFAR-10 JPEG: trained once, then converted without training.

    python benchmarks/transformer.py --train runs/transformer  # half an hour of a core; goes on where it stopped
    python benchmarks/transformer.py runs/transformer --images 10000 2:16 4:4 4:8 8:4

LayerNorm, GELU and attention compute on numbers, every weighted layer but the first reads spikes (``sites="all"``; with
``--sites products`` attention reads spikes too). Rows are added to ``transformer.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import CIFAR, HERE, cifar, graded_on_numbers

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
    graded_on_numbers(network, given.cells, calibration, test, PATH, "python benchmarks/transformer.py", given.sites)


if __name__ == "__main__":
    main()
