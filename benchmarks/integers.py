"""ResNet-20 and EfficientNet-Lite0 on whole numbers: accuracy by the bits of the weights (docs/results.md).

    python benchmarks/integers.py resnet20                       # 10,000 test images
    python benchmarks/integers.py resnet20 --images 1000 --methods Graded --bits 4:learned
    python benchmarks/integers.py efficientnet                   # sites="all", 800 images
    python benchmarks/integers.py --table

Converted with 512 unlabelled training images (the 200 of the ImageNet sample that are not tested), then to whole
numbers with the same images, for the generic target: weights of the given bits, rounded to the nearest or learned, one
scale for each channel, potentials of 24 bits. ``counts``: images whose logits, and neurons whose spike counts, differ
between the simulation and the closed form. Results replace those of the same kind in the file next to this script.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from common import CIFAR, HERE, IMAGENET, cifar, efficientnet_lite0, imagenet_sample, record, resnet20

import rheobase as rb
from rheobase.methods import GradedNeuron
from rheobase.network import generic

PATH = HERE / "integers.json"
METHODS = {
    "ParallelConversion": rb.ParallelConversion(timesteps=8),
    "FTBC": rb.FTBC(timesteps=16),
    "Graded": rb.Graded(timesteps=4),
}
WIDE = rb.Recipe(
    name="Graded",
    timesteps=4,
    neuron=GradedNeuron(magnitude=4),
    calibration=(rb.passes.Thresholds(levels=12), rb.passes.WeightRegression(ridge=0.3)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=("resnet20", "efficientnet"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--bits", default="8:nearest,4:nearest,4:learned", help="bits:rounding, separated by commas")
    parser.add_argument("--images", type=int, help="test images; default: all")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    rows = json.loads(PATH.read_text())["result"] if PATH.exists() else {}
    if not given.table:
        if given.case is None:
            parser.error("say which network")
        for name, row in measured(given):
            print(name, row, flush=True)
            rows[name] = row
            record(PATH, "python benchmarks/integers.py CASE", rows)
    print(table(rows))


def measured(given: argparse.Namespace) -> Any:
    """Yield a row for every method and width."""
    wide = given.case == "efficientnet"
    if wide:
        (images, _), test = imagenet_sample(given.images or 800)
    else:
        images, test = cifar("train", limit=10_000, seed=0)[0], cifar("test", limit=given.images or 10_000, seed=0)
    scale = IMAGENET if wide else CIFAR
    preprocessing = rb.data.Preprocessing(mean=scale.mean, std=scale.std, scale=scale.scale)
    for method in ["Graded"] if wide else given.methods.split(","):
        recipe = WIDE if wide else METHODS[method]
        net, sites = (efficientnet_lite0(), "all") if wide else (resnet20(), "activations")
        snn = rb.convert(net, recipe, calibration=images, num_calibration_images=512, sites=sites)
        before = rb.evaluate(snn, test, (recipe.timesteps,)).rows[-1].accuracy
        for bits, rounding in (one.split(":") for one in given.bits.split(",")):
            whole = rb.integers(
                snn,
                generic(weights=int(bits)),
                calibration=images,
                num_calibration_images=512,
                rounding=rounding,
                preprocessing=preprocessing,
            )
            after = rb.evaluate(whole, test, (recipe.timesteps,)).rows[-1].accuracy
            row = {"float": before, "integers": after, "images": len(test[0]), "bytes": size(whole), "bits": int(bits)}
            row["dtype"] = str(whole.graph.dtype)
            if whole.execution_mode == "counts":
                row["counts"] = differences(whole, test[0])
            yield f"{given.case}, {method}, T = {recipe.timesteps}, {bits} bits, {rounding}", row


def size(network: rb.network.IntegerNetwork) -> int:
    """Bytes of the saved folder."""
    with tempfile.TemporaryDirectory() as folder:
        return sum(file.stat().st_size for file in rb.save(network, Path(folder) / "net").iterdir())


def differences(network: rb.network.IntegerNetwork, images: torch.Tensor) -> dict[str, int]:
    """Images with other logits, and neurons with other spike counts, in the simulation than in the closed form."""
    found = {"images": 0, "neurons": 0}
    for part in images.split(250):
        logits, counts = {}, {}
        for execution in ("counts", "steps"):
            network.execution = execution
            spikes: dict[str, list[torch.Tensor]] = defaultdict(list)

            def add(site: Any, emitted: Any, spikes: dict[str, list[torch.Tensor]] = spikes) -> None:
                spikes[site.name].append(rb.signals.count_spikes(emitted).net)

            logits[execution] = network.readouts(part, (network.timesteps,), monitor=add)[0]
            counts[execution] = {name: torch.cat(parts) for name, parts in spikes.items()}
        found["images"] += int((logits["counts"] != logits["steps"]).flatten(1).any(1).sum())
        pairs = zip(counts["counts"].values(), counts["steps"].values(), strict=True)
        found["neurons"] += sum(int((one != other).sum()) for one, other in pairs)
    network.execution = "auto"
    return found


def table(rows: dict) -> str:
    """One line for each network, method and width, as Markdown."""
    lines = ["| network, method | bits | accuracy, % | float, % | images | kB |", "| --- |" + " --: |" * 5]
    for name, row in rows.items():
        figures = (
            f"{100 * row['integers']:.2f} | {100 * row['float']:.2f} | {row['images']} | {row['bytes'] / 1000:.0f}"
        )
        lines.append(f"| {name} | {row['bits']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
