"""Streaming networks trained through time: ResNet-20 on CIFAR-10 JPEG.

Each cell, an alphabet and a T, is thresholds, weights by regression, and training through time on unlabelled training
images, one fifth of them held out; nothing is chosen on the test images. Seconds are those of one core.

    python benchmarks/through_time.py binary:4 1:2 1:4
    python benchmarks/through_time.py --images 10000 --table

``binary`` is the integrate-and-fire neuron, a number m the alphabet −m..m. Results are added to
``through_time_resnet20.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from common import cifar, record, resnet20

import rheobase as rb

PATH = Path(__file__).with_name("through_time_resnet20.json")
IMAGES = 512
"""Images for thresholds and regression."""
EPOCHS = {2: 16, 4: 17, 8: 9}
"""By T: at most fifteen minutes of one core, by the 32, 49 and (estimated) 98 seconds that an epoch takes."""


def recipe(alphabet: str, timesteps: int, **options: object) -> rb.Recipe:
    """The method of a cell, from its options of :class:`rheobase.passes.ThroughTime`."""
    binary = alphabet == "binary"
    neuron = rb.methods.IntegrateFireNeuron() if binary else rb.methods.GradedNeuron(magnitude=int(alphabet))
    calibration = (
        rb.passes.Thresholds(images=IMAGES),
        rb.passes.WeightRegression(rounds=2, images=IMAGES),
        rb.passes.ThroughTime(**{"augment": rb.training.Augmentation(crop_padding=0), **options}),
    )
    return rb.Recipe(name="ThroughTime", timesteps=timesteps, neuron=neuron, calibration=calibration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="ALPHABET:T")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--num-calibration-images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, help=f"default by T: {EPOCHS}")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(PATH.read_text())["result"]))
        return
    torch.set_num_threads(1)
    calibration = cifar("train", limit=arguments.num_calibration_images, seed=0)[0]
    test = cifar("test", limit=arguments.images, seed=0)
    for cell in arguments.cells:
        alphabet, timesteps = cell.split(":")
        epochs = arguments.epochs or EPOCHS[int(timesteps)]
        own = recipe(alphabet, int(timesteps), epochs=epochs)
        wall, core = time.perf_counter(), seconds_of_cores()
        snn = rb.convert(resnet20(), own, calibration=calibration, num_calibration_images=len(calibration))
        wall, core = time.perf_counter() - wall, seconds_of_cores() - core
        loader = list(zip(*(part.split(500) for part in test), strict=True))
        evaluation = rb.evaluate(snn, loader, timesteps=(int(timesteps),))
        (measured,) = evaluation.rows
        history = snn.provenance.passes[-1]["history"]
        row = {
            "accuracy": measured.accuracy,
            "ann": evaluation.ann_accuracy,
            "agreement": measured.agreement,
            "spike_rate": measured.spike_rate,
            "event_rate": measured.event_rate,
            "seconds_of_one_core": round(core),
            "seconds": round(wall),
            "calibration_images": len(calibration),
            "epochs": [(epoch["train_loss"], epoch["validation_loss"], epoch["seconds"]) for epoch in history],
            "notes": [note for done in snn.provenance.passes for note in done["notes"]],
            "images": evaluation.images,
            "recipe": own.to_dict(),
        }
        command = f"python benchmarks/through_time.py --images {arguments.images}"
        command += f" --num-calibration-images {arguments.num_calibration_images} --epochs {epochs} {cell}"
        add(PATH, command, f"{cell} {len(calibration)} images, {epochs} epochs", row)


def seconds_of_cores() -> float:
    """Seconds of all cores that this process and the compiler it started have used."""
    return sum(os.times()[:4])


def add(path: Path, command: str, name: str, row: dict) -> None:
    """Add one result to the file."""
    print(name, {key: value for key, value in row.items() if key != "recipe"}, flush=True)
    rows = json.loads(path.read_text())["result"] if path.exists() else {}
    if name not in rows or rows[name]["images"] <= row["images"]:
        rows[name] = {**row, "command": command}
        record(path, "each row has its own", rows)


def table(result: dict) -> str:
    """Markdown: accuracy, seconds of one core."""
    lines = [
        "| alphabet | T | accuracy | ANN | seconds of one core | test images |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(result.items()):
        alphabet, timesteps = name.split()[0].split(":")
        shown = alphabet if alphabet == "binary" else f"−{alphabet}..{alphabet}"
        figures = f"{100 * row['accuracy']:.2f} | {100 * row['ann']:.2f} | {row['seconds_of_one_core']}"
        lines.append(f"| {shown} | {timesteps} | {figures} | {row['images']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
