"""PASCAL's adaptive levels (section 3.4) on the shared ReLU ResNet-20, CIFAR-10 (JPEG): which levels, what accuracy.

    python benchmarks/adaptive_levels.py runs/al --epochs 6 --levels 8,4 --levels 8,4,2 --levels 8
    python benchmarks/adaptive_levels.py runs/al --epochs 6 --levels 8,4 --figures docs/figures

Each ``--levels`` names L of every cluster, falling; χ is how many there are. Two thirds of the epochs train at the
first L everywhere, once for all ``--levels`` that begin alike; then each measures the metric and trains the other
epochs from there. A single L is the control: as many epochs, nothing adapted. Every epoch ends with a checkpoint in the
folder; started again with the same options, a killed run goes on after it, and a finished one is measured again.

The result: L of every site, their mean, T_eff, test accuracy of the quantised network and of the Pascal network in
closed form, on how many images they differ (with batch normalisation folded and before), and the metric of every site;
all that was measured, histograms included, is in ``adapted.json`` in the folder. ``--figures`` draws the metric
(Fig. 1) and how it depends on α (Fig. 3). With ``--limit``, a trial, the result stays in the folder, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from common import CIFAR, HERE, cifar, resnet20
from pascal_cost import effective_timesteps, layers
from post_training import add
from qvm import BATCH, compare

import rheobase as rb
from rheobase.measure.plots import level_metric_plot

Images = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", action="append", required=True, help="such as 8,4; may be repeated")
    parser.add_argument("--epochs", type=int, default=6, help="of both stages together")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--images", type=int, default=10000, help="how many test images")
    parser.add_argument("--limit", type=int, help="only so many training images")
    parser.add_argument("--figures", type=Path, help="folder to draw the metric in")
    arguments = parser.parse_args()
    images = cifar("train", limit=arguments.limit, seed=0)
    test = cifar("test", limit=arguments.images, seed=0)
    for text in arguments.levels:
        levels = tuple(int(part) for part in text.split(","))
        adapted = adapt(levels, images, arguments)
        command = f"python benchmarks/adaptive_levels.py {arguments.folder} --epochs {arguments.epochs} --levels {text}"
        place = HERE if arguments.limit is None else arguments.folder
        add(place / "adaptive_levels.json", command, text, measure(adapted, test))
        if arguments.figures:
            arguments.figures.mkdir(parents=True, exist_ok=True)
            name = text.replace(",", "-")
            level_metric_plot(adapted.metric, arguments.figures / f"metric_{name}.png", levels=adapted.levels)
            level_metric_plot(adapted.metric.sweep(), arguments.figures / f"alpha_{name}.png")


def adapt(levels: tuple[int, ...], images: Images, arguments: argparse.Namespace) -> rb.methods.AdaptedLevels:
    """Both stages; all runs that begin with the same level share the first."""
    place = arguments.folder / "-".join(map(str, levels))
    shared = arguments.folder / f"uniform-{levels[0]}"
    for folder in (shared, place):
        folder.mkdir(parents=True, exist_ok=True)
    if not (place / "uniform").exists():
        (place / "uniform").symlink_to(Path("..") / shared.name, target_is_directory=True)
    training = rb.Training(
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        batch_size=128,
        augment=rb.training.Augmentation(mean=CIFAR.mean, std=CIFAR.std),
    )
    network = rb.quantise(resnet20(), rb.Pascal(levels=levels[0]), calibration=images)
    adapted = rb.methods.adapt_levels(
        network, images, training, levels=levels, num_calibration_images=3000, folder=place
    )
    (place / "adapted.json").write_text(json.dumps(adapted.to_json(), indent=1) + "\n")
    return adapted


def measure(adapted: rb.methods.AdaptedLevels, test: Images) -> dict:
    """What the table has of a network."""
    snn = rb.convert(adapted.model, rb.Pascal())
    snn.execution = "counts"
    compared = compare(adapted.model, snn, test)
    return {
        "levels": adapted.levels,
        "mean level": adapted.mean_level,
        "T_eff, by the paper's spike rate": effective_timesteps(layers(snn)),
        "T_eff, measured on 200 images": effective_timesteps(layers(snn, test[0][:200])),
        "accuracy of the quantised network": accuracy(adapted.model, test),
        "accuracy of Pascal, counts": compared.pop("accuracy"),
        **compared,
        "images": len(test[0]),
        "metric": {site["site"]: site["metric"] for site in adapted.metric.to_json()["sites"]},
    }


@torch.inference_mode()
def accuracy(network: torch.nn.Module, test: Images) -> float:
    """Share of the images in their class."""
    pairs = zip(test[0].split(BATCH), test[1].split(BATCH), strict=True)
    return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in pairs) / len(test[0])


if __name__ == "__main__":
    main()
