"""Fine-tune the shared ReLU ResNet-20 with QAC's learned steps on CIFAR-10 (JPEG).

    python benchmarks/qac_training.py runs/qac-3.5 --mean-timesteps 3.5 --epochs 6
    python benchmarks/qac_training.py runs/qac-2.5 --start runs/qac-3.5 --mean-timesteps 2.5 --epochs 6
    python benchmarks/qac_training.py runs/qac-free-d --parametrisation d_alpha --mean-timesteps free --epochs 6

α and steps start from 1,024 training images; 10 % of the training images are the validation set, and the weights of the
last epoch are kept. Every epoch ends with a checkpoint in the folder; started again, a killed run goes on after it. The
weights end up in ``<folder>/weights.safetensors``, all numbers in ``<folder>/training.json``: the mean T after each
epoch, and steps and α of every site. ``trained`` gives the network back.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from common import CIFAR, cifar, record, resnet20

import rheobase as rb
from rheobase.graph.trainable import TrainableGraph


def recipe(arguments: argparse.Namespace) -> rb.Recipe:
    """The recipe that the network is quantised with; ``rb.QAC()`` converts it."""
    return rb.QAC(
        mean_timesteps=arguments.mean_timesteps,
        parametrisation=arguments.parametrisation,
        granularity=arguments.granularity,
        max_timesteps=arguments.max_timesteps,
        rate=arguments.rate,
        matched=not arguments.unmatched,
    )


def trained(folder: Path) -> TrainableGraph:
    """The quantised ResNet-20 that a finished run of this script or of ``quantised_training.py`` left in its folder."""
    told = folder / "training.json"
    if not told.exists():
        raise SystemExit(f"{folder} holds no finished training")
    result = json.loads(told.read_text())["result"]
    if "recipe" in result:
        how = rb.Recipe.from_dict(result["recipe"])
    else:
        how = rb.QVM(levels=result["levels"], rounding=result["rounding"])
    # the images only choose the θ and levels that the trained ones then replace
    network = rb.quantise(resnet20(), how, calibration=cifar("train", limit=64, seed=0))
    network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    return network.eval()


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parametrisation", default="t_alpha", help="n_d, n_alpha, d_alpha or t_alpha")
    parser.add_argument("--mean-timesteps", type=lambda s: s if s == "free" else float(s), default=3.0)
    parser.add_argument("--granularity", default="layer")
    parser.add_argument("--max-timesteps", type=int, default=32)
    parser.add_argument("--rate", type=float, default=rb.QAC().activation.rate)  # type: ignore[union-attr]
    parser.add_argument("--unmatched", action="store_true", help="one learning rate for bits, step sizes and weights")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--distil", action="store_true", help="the float network as teacher")
    parser.add_argument("--exact-statistics", action="store_true", help="of batch normalisation, after the last epoch")
    parser.add_argument("--start", type=Path, help="a run's folder to start from, in place of the ReLU network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only so many training images")
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    images, labels = cifar("train", limit=arguments.limit, seed=0)
    source = resnet20() if arguments.start is None else trained(arguments.start)
    network = rb.quantise(source, recipe(arguments), calibration=(images, labels))
    start = {name: part.levels for name, part in network.activations.items()}
    training = rb.Training(
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        batch_size=128,
        exact_statistics=arguments.exact_statistics,
        augment=rb.training.Augmentation(mean=CIFAR.mean, std=CIFAR.std),
    )
    began = time.perf_counter()
    done = rb.train(
        network,
        (images, labels),
        training,
        teacher=resnet20() if arguments.distil else None,
        folder=arguments.folder,
        seed=arguments.seed,
    )
    model = done.model
    assert isinstance(model, TrainableGraph)
    result = {
        "recipe": recipe(arguments).to_dict(),
        "training": training.model_dump(mode="json"),
        "teacher": arguments.distil,
        "seed": arguments.seed,
        "images": len(images),
        "mean_timesteps": model.mean_timesteps,
        "steps_at_the_start": start,
        "steps": {name: part.levels for name, part in model.activations.items()},
        "steps_before_rounding": {name: float(part.real_steps.detach()) for name, part in model.activations.items()},
        "thresholds": {name: part.saturation.detach().tolist() for name, part in model.activations.items()},
        "notes": list(done.notes),
        "history": [asdict(epoch) for epoch in done.history],
        "seconds_of_this_process": time.perf_counter() - began,
    }
    record(arguments.folder / "training.json", f"python benchmarks/qac_training.py {shlex.join(sys.argv[1:])}", result)
    for epoch in done.history:
        accuracy = 100 * (epoch.validation_accuracy or 0.0)
        print(f"epoch {epoch.epoch}: validation {accuracy:.2f} %, mean T {epoch.mean_timesteps}, {epoch.seconds:.0f} s")
    print("\n".join(done.notes))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
