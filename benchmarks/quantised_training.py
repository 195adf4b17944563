"""Fine-tune the shared ReLU ResNet-20 with quantised activations on CIFAR-10 (JPEG), for the exact conversions.

    python benchmarks/quantised_training.py runs/qcfs4 --levels 4 --epochs 4
    python benchmarks/quantised_training.py runs/floor4 --levels 4 --rounding floor --epochs 2

θ starts from 1,024 training images; 10 % of the training images are the validation set. Every epoch ends with a
checkpoint in the folder; started again, a killed run goes on after it. The weights end up in
``<folder>/weights.safetensors``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from common import CIFAR, cifar, record, resnet20

import rheobase as rb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--rounding", default="round")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--limit", type=int, help="only so many training images")
    arguments = parser.parse_args()
    images, labels = cifar("train", limit=arguments.limit, seed=0)
    recipe = rb.QVM(levels=arguments.levels, rounding=arguments.rounding)
    network = rb.quantise(resnet20(), recipe, calibration=(images, labels))
    training = rb.Training(
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        batch_size=128,
        augment=rb.training.Augmentation(mean=CIFAR.mean, std=CIFAR.std),
    )
    trained = rb.train(network, (images, labels), training, folder=arguments.folder, progress=False)
    result = {
        "levels": arguments.levels,
        "rounding": arguments.rounding,
        "history": [asdict(e) for e in trained.history],
    }
    print(json.dumps(result["history"], indent=1))
    command = f"python benchmarks/quantised_training.py {arguments.folder} --levels {arguments.levels}"
    record(arguments.folder / "training.json", command, result)


if __name__ == "__main__":
    main()
