"""The four-way ablation of DA calibration (its Table 3), on real networks and data, and the speed of its result.

    python benchmarks/da_parallel.py resnet20 --num-calibration-images 50000 --images 10000 full 2 4 8 16
    python benchmarks/da_parallel.py efficientnet --images 800 baseline,spatial,temporal,full 8 16 32
    python benchmarks/da_parallel.py qcfs --weights runs/qcfs4/weights.safetensors --levels 4 --images 10000 full 1 2 4
    python benchmarks/da_parallel.py resnet20 --table

plain: least-squares thresholds and nothing else; baseline: FS-PC, with its error calibration; spatial, temporal, full:
with stage 1, stage 2, both. ``--num-calibration-images``: how many training images are read (of the ImageNet sample
200, the other 800 are for testing); a fifth, 2000 at most, is held out and decides what is kept. Every result is added
to the file beside this script as soon as it is there, in place of an older one on no more images, with the seconds, the
parameters trained, and the images per second in turn with the analog network, as it is and after ``rb.for_inference``.
``--option NAME=VALUE`` sets an option of ``rb.DAParallel``, and its results are recorded under a name of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from common import HERE, cifar, efficientnet_lite0, imagenet_sample, interleaved, record, resnet20
from safetensors.torch import load_file

import rheobase as rb

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"spatial": False, "temporal": False, "errors": False},
    "baseline": {"spatial": False, "temporal": False},
    "spatial": {"temporal": False},
    "temporal": {"spatial": False},
    "full": {},
}
STAGES = ("spatial_recalibration", "temporal_correction")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("resnet20", "efficientnet", "qcfs"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--num-calibration-images", type=int, default=10_000)
    parser.add_argument("--weights", type=Path, help="of the QCFS network, from quantised_training.py")
    parser.add_argument("--levels", type=int, default=4, help="of the QCFS network")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("variants", nargs="?", default="", help=", ".join(VARIANTS))
    parser.add_argument("timesteps", type=int, nargs="*")
    arguments = parser.parse_intermixed_args()
    path = HERE / f"da_parallel_{arguments.case}.json"
    if arguments.table:
        print(table(json.loads(path.read_text())["result"]))
        return
    options = {name: yaml.safe_load(value) for name, value in (text.split("=", 1) for text in arguments.option)}
    options = {**DEFAULTS[arguments.case], **options}
    named = "".join(f" {text}" for text in arguments.option)
    model, calibration, test = setting(arguments)
    for timesteps in arguments.timesteps:
        for variant in arguments.variants.split(","):
            recipe = rb.DAParallel(timesteps=timesteps, **{**options, **VARIANTS[variant]})
            start = time.perf_counter()
            number = arguments.num_calibration_images
            network = rb.convert(model, recipe, calibration=calibration, num_calibration_images=number)
            seconds = time.perf_counter() - start
            row = measure(network, test) | {
                "calibration_images": network.provenance.calibration["images"],
                "calibration_seconds": round(seconds, 1),
                **trained(network),
                **speed(network, test[0]),
                "notes": [note for done in network.provenance.passes[1:] for note in done["notes"]],
                "recipe": recipe.to_dict(),
            }
            command = f"python benchmarks/da_parallel.py {arguments.case} --images {len(test[0])}"
            command += f" --num-calibration-images {number}"
            command += "".join(f" --option {text}" for text in arguments.option) + f" {variant} {timesteps}"
            add(path, command, f"{variant} T={timesteps}{named}", row)


DEFAULTS: dict[str, dict[str, Any]] = {
    "resnet20": {},
    # 160 images to learn from
    "efficientnet": {"epochs": 4, "temporal_epochs": 4, "batch_size": 16, "learning_rate": 1e-3},
    "qcfs": {"threshold": "saturation"},
}


def setting(arguments: argparse.Namespace) -> tuple[Any, tuple, tuple]:
    """Network, calibration data and test data."""
    if arguments.case == "efficientnet":
        return efficientnet_lite0(), *imagenet_sample(arguments.images)
    calibration = cifar("train", limit=arguments.num_calibration_images, seed=0)
    test = cifar("test", limit=arguments.images, seed=0)
    model: Any = resnet20()
    if arguments.case == "qcfs":
        # the images only choose the θ that the trained ones then replace
        model = rb.quantise(model, rb.QVM(levels=arguments.levels), calibration=calibration, num_calibration_images=64)
        model.load_state_dict(load_file(arguments.weights))
    return model, calibration, test


def measure(network: rb.SpikingNetwork, test: tuple) -> dict[str, Any]:
    """Means over the test images."""
    loader = list(zip(*(part.split(500) for part in test), strict=True))
    result = rb.evaluate(network, loader, timesteps=(network.timesteps,))
    (row,) = result.rows
    ready = rb.for_inference(network)
    same = sum(int((ready(images).argmax(1) == network(images).argmax(1)).sum()) for images, _ in loader)
    return {
        "accuracy": row.accuracy,
        "ann": result.ann_accuracy,
        "agreement": row.agreement,
        "spike_rate": row.spike_rate,
        "execution": result.execution,
        "images_where_for_inference_differs": result.images - same,
        "images": result.images,
    }


def trained(network: rb.SpikingNetwork) -> dict[str, Any]:
    """Of each stage: parameters trained, and how the loss and the accuracy went."""
    stages = [done for done in network.provenance.passes if done["pass"]["kind"] in STAGES]
    return {
        "parameters_trained": sum(
            int(note.split()[0]) for done in stages for note in done["notes"] if "parameters trained" in note
        ),
        "history": {done["pass"]["kind"]: done["history"] for done in stages},
    }


@torch.inference_mode()
def speed(network: rb.SpikingNetwork, images: torch.Tensor, batch: int = 128) -> dict[str, float]:
    """Images per second of the closed form as a share of the analog network's, batch normalisation folded in both."""
    images = images[:batch]
    functions = {"ann": network.ann, "snn": network, "ready": rb.for_inference(network)}
    seconds = interleaved({name: partial(function, images) for name, function in functions.items()}, rounds=7)
    return {
        "speed against the ANN": round(seconds["ann"] / seconds["snn"], 3),
        "speed for inference": round(seconds["ann"] / seconds["ready"], 3),
    }


def table(rows: dict[str, dict]) -> str:
    """Accuracy, variants by T."""
    steps = sorted({int(name.split("T=")[1].split()[0]) for name in rows})
    lines = [f"| variant | {' | '.join(f'T = {t}' for t in steps)} |", "| --- |" + " --: |" * len(steps)]
    for variant in dict.fromkeys((name.split(" T=")[0], *name.split("T=")[1].split()[1:]) for name in rows):
        found = [rows.get(" ".join((f"{variant[0]} T={t}", *variant[1:]))) for t in steps]
        cells = ["-" if row is None else f"{100 * row['accuracy']:.2f}" for row in found]
        lines.append(f"| {' '.join(variant)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def add(path: Path, command: str, name: str, row: dict) -> None:
    """Add one result to the file."""
    print(name, {key: value for key, value in row.items() if key not in ("recipe", "history")}, flush=True)
    rows = json.loads(path.read_text())["result"] if path.exists() else {}
    if name not in rows or rows[name]["images"] <= row["images"]:
        rows[name] = {**row, "command": command}
        record(path, "each row has its own", rows)


if __name__ == "__main__":
    main()
