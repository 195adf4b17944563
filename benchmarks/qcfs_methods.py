"""Methods published for networks with trained levels, on a ResNet-20 with QCFS or SlipReLU activations.

    python benchmarks/qcfs_methods.py runs/qcfs                        # T = 2, 4, 8 on 10,000 test images
    python benchmarks/qcfs_methods.py runs/qcfs --methods "SRP;COS" --timesteps 4 --images 1000
    python benchmarks/qcfs_methods.py --table

The shared ReLU network is fine-tuned with L = 8 levels, once with QCFS, once with SlipReLU (and with L = 2), for three
epochs of 10,000 labelled images; started again, the training is read from the folder. All methods take the trained
thresholds. Every method but SlipReLU runs on the QCFS network. Cells replace those of the same method and T in the file
next to this script.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from common import CIFAR, HERE, cifar, resnet20
from tabulate import tabulate

import rheobase as rb
from rheobase.comparison.folder import RESULTS_FILE
from rheobase.core.lines import read_lines

LEVELS = 8
TRAINED = {"threshold": "saturation", "granularity": "layer"}
METHODS: dict[str, Callable[[int], rb.Recipe]] = {
    "QCFS": lambda t: rb.methods.QCFS(t, levels=None),
    "SlipReLU": lambda t: rb.SlipReLU(t, levels=None),
    "SlipReLU, L = 2": lambda t: rb.SlipReLU(t, levels=None),
    "Burst": lambda t: rb.Burst(t, levels=t, **TRAINED),
    "Burst, 2 T levels": lambda t: rb.Burst(t, **TRAINED),
    "SNM": lambda t: rb.SNM(t, **TRAINED),
    "AdaFire": lambda t: rb.AdaFire(t, **TRAINED),
    "SRP": lambda t: rb.SRP(t, **TRAINED),
    "COS": lambda t: rb.COS(t, **TRAINED),
    "TPP": lambda t: rb.TPP(t, **TRAINED),
    "QVM": lambda t: rb.QVM(timesteps=t),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--timesteps", default="2,4,8")
    parser.add_argument("--images", type=int, default=10_000, help="test images, the first of a seeded shuffle")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    kept = HERE / "qcfs_methods.jsonl"
    cells = [json.loads(line) for line in read_lines(kept)]
    if not arguments.table:
        if arguments.folder is None:
            parser.error("say in which folder")
        images, test = cifar("train", limit=10_000, seed=0), cifar("test", limit=arguments.images, seed=0)
        wanted = arguments.methods.split(";" if ";" in arguments.methods else ",")
        networks = {
            "slip": (rb.SlipReLU(levels=LEVELS), ["SlipReLU"]),
            "slip2": (rb.SlipReLU(levels=2), ["SlipReLU, L = 2"]),
            "qcfs": (rb.methods.QCFS(levels=LEVELS), [name for name in METHODS if "SlipReLU" not in name]),
        }
        for name, (recipe, own) in networks.items():
            methods = [method for method in wanted if method in own]
            if not methods:
                continue
            network, folder = trained(recipe, images, arguments.folder / name), arguments.folder / f"{name} results"
            for t in map(int, arguments.timesteps.split(",")):
                recipes = {method: METHODS[method](t) for method in methods}
                options = {"num_calibration_images": 512, "energy_images": 64, "progress": True}
                rb.compare(network, recipes, images, test, [t], folder=folder, **options)
            cells += [json.loads(line) for line in read_lines(folder / RESULTS_FILE)]
        newest = {(cell["method"], cell["timesteps"]): cell for cell in cells}
        kept.write_text("".join(json.dumps(cell, ensure_ascii=False) + "\n" for cell in newest.values()))
        cells = list(newest.values())
    print(table(cells))


def trained(recipe: rb.Recipe, images: tuple, folder: Path) -> object:
    """The network with quantised activations, fine-tuned on labels."""
    network = rb.quantise(resnet20(), recipe, calibration=images, num_calibration_images=1024)
    training = rb.Training(
        epochs=3,
        learning_rate=0.02,
        batch_size=128,
        augment=rb.training.Augmentation(mean=CIFAR.mean, std=CIFAR.std),
    )
    return rb.train(network, images, training, folder=folder).model


def table(cells: list[dict]) -> str:
    """Methods by T: accuracy, that of the trained network, latency and energy, as Markdown."""
    rows = []
    for method in METHODS:
        mine = {cell["timesteps"]: cell for cell in cells if cell["method"] == method}
        row = {"method": method}
        for t, cell in sorted(mine.items()):
            done = cell["test"]
            row[f"T = {t}"] = cell["reason"] if done is None else f"{100 * done['accuracy']:.2f}"
            if done is not None:
                row["trained network"] = f"{100 * done['ann_accuracy']:.2f}"
                row[f"latency, T = {t}"] = cell["latency"]["final"]
                row[f"energy / ANN, T = {t}"] = f"{done['energy_ratio']:.2f}"
        rows += [row] if len(row) > 1 else []
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
