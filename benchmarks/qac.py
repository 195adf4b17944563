"""QAC's measurements on a trained network: alignment (Table 4), calibration (3), scaling (5), averaging on QCFS (8).

    python benchmarks/qac.py runs/qac-3.5 alignment calibration scaling agree
    python benchmarks/qac.py runs/qcfs4 table8
    python benchmarks/qac.py runs/qac-3.5 --images 1000 alignment

The weights are those that ``benchmarks/qac_training.py`` or ``benchmarks/quantised_training.py`` left in the folder.

``alignment``: accuracy with plain integrate-and-fire neurons for each way to expand and to reduce trains, and with the
mean taken on every edge, all at the steps that the network was trained with; the paper's last row is at twice those, so
that column is there too. ``calibration``: accuracy and mean T before and after V0 and θ are trained, at the trained
steps (where a network of neurons under a constant current is exact and there is nothing to gain), at one step fewer for
each site, and with plain neurons. ``scaling``: all steps times 1 to 6. ``agree``: on how many images the closed form
and the simulation predict different classes, in float64 and float32; also with V0 moved out of [0, θ] at every second
site. ``table8``: plain QCFS and QCFS with averaging at T = 1 to 32.

Calibrated on 1,024 training images, of which a fifth is held out. ``--images``: how many test images, the first of a
seeded shuffle. Every result is added to the file beside this script as soon as it is there, in place of an older one on
no more images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from common import HERE, cifar
from post_training import add
from qac_training import trained

import rheobase as rb
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods import ConstantCurrentNeuron

PARTS = ("alignment", "calibration", "scaling", "agree", "table8")
TIMESTEPS = (1, 2, 3, 4, 8, 16, 32)
CALIBRATION = 1024
BATCH = 250

Test = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=5, help="of the calibration")
    parser.add_argument("--num-calibration-images", type=int, default=CALIBRATION)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    arguments = parser.parse_args()
    train = cifar("train", limit=arguments.num_calibration_images, seed=0)
    network, test = trained(arguments.folder), cifar("test", limit=arguments.images, seed=0)
    measure = {f.__name__: f for f in (alignment, calibration, scaling, agree, table8)}
    for part in arguments.parts:
        measure[part](network, arguments, train, test)


def save(arguments: argparse.Namespace, part: str, name: str, row: dict[str, Any], test: Test) -> None:
    command = f"python benchmarks/qac.py {arguments.folder} --images {len(test[0])}"
    if part in ("calibration", "agree"):
        command += f" --epochs {arguments.epochs} --num-calibration-images {arguments.num_calibration_images}"
    key = f"{arguments.folder.name}, {part}: {name}"
    add(HERE / "qac.json", f"{command} {part}", key, {**row, "images": len(test[0])})


def rows(snn: rb.SpikingNetwork, test: Test, timesteps: tuple[int, ...]) -> dict[str, Any]:
    result = rb.evaluate(snn, test, timesteps=timesteps)
    return {
        "mean T": {row.timesteps: row.mean_timesteps for row in result.rows},
        "accuracy": {row.timesteps: row.accuracy for row in result.rows},
        "agreement": {row.timesteps: row.agreement for row in result.rows},
        "ann": result.ann_accuracy,
        "execution": result.execution,
    }


def plain(
    network: TrainableGraph, align: rb.signals.Alignment | None, *passes: rb.passes.SurrogateCalibration
) -> rb.Recipe:
    """Integrate-and-fire neurons with the trained thresholds, V0 = θ/2 and the trained steps of every site."""
    by_channel = any(part.threshold.dim() for part in rb.convert(network, exact()).neurons)
    thresholds = rb.passes.Thresholds(method="saturation", granularity="channel" if by_channel else "layer")
    return rb.Recipe(
        name="integrate-and-fire",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps="levels"),
        alignment=align,
        calibration=(thresholds, *passes),
    )


def exact() -> rb.Recipe:
    """The mean on every edge."""
    return rb.Recipe(name="mean on every edge", timesteps=None, neuron=ConstantCurrentNeuron())


def alignment(network: TrainableGraph, arguments: argparse.Namespace, train: Test, test: Test) -> None:
    snn = rb.convert(network, exact())
    both = (snn.timesteps, 2 * snn.timesteps)
    save(arguments, "alignment", "mean on every edge", rows(snn, test, both), test)
    for expansion in ("average", "replicate"):
        for reduction in ("average", "truncate"):
            recipe = plain(network, rb.signals.Alignment(expansion=expansion, reduction=reduction))  # type: ignore[arg-type]
            snn = rb.convert(network, recipe, calibration=train)
            row = {**rows(snn, test, both), "notes": [n for n in snn.provenance.notes if n.startswith("alignment")]}
            save(arguments, "alignment", f"{expansion} + {reduction}", row, test)


def calibration(network: TrainableGraph, arguments: argparse.Namespace, train: Test, test: Test) -> None:
    start = rb.convert(network, exact())
    fewer = {site.name: max(1, start.steps_of(site.name) - 1) for site in start.sites}
    for granularity in ("layer", "channel"):
        part = rb.passes.SurrogateCalibration(granularity=granularity, epochs=arguments.epochs)  # type: ignore[arg-type]
        one_fewer = ConstantCurrentNeuron(timesteps=fewer)
        steps = [start.steps_of(site.name) for site in start.sites]
        align = rb.signals.Alignment() if len(set(steps)) > 1 else None
        pairs = {
            "trained steps": (exact(), rb.Recipe(**{**exact().to_dict(), "calibration": (part,)})),
            "one step fewer": (
                rb.Recipe(name="one step fewer", timesteps=None, neuron=one_fewer),
                rb.Recipe(name="one step fewer", timesteps=None, neuron=one_fewer, calibration=(part,)),
            ),
            "integrate-and-fire": (plain(network, align), plain(network, align, part)),
        }
        for name, (before, after) in pairs.items():
            if granularity == "layer":  # the same for both
                snn = rb.convert(network, before, calibration=train)
                save(arguments, "calibration", f"{name}, before", rows(snn, test, (snn.timesteps,)), test)
            began = time.perf_counter()
            snn = rb.convert(network, after, calibration=train)
            seconds = time.perf_counter() - began
            row = rows(snn, test, (snn.timesteps,))
            record = snn.provenance.passes[-1]
            row |= {"notes": record["notes"], "history": record["history"], "seconds": round(seconds, 1)}
            save(arguments, "calibration", f"{name}, after, one a {granularity}", row, test)


def scaling(network: TrainableGraph, arguments: argparse.Namespace, train: Test, test: Test) -> None:
    snn = rb.convert(network, exact())
    row = rows(snn, test, tuple(k * snn.timesteps for k in range(1, 7)))
    save(arguments, "scaling", "T to 6 T", row, test)


def agree(network: TrainableGraph, arguments: argparse.Namespace, train: Test, test: Test) -> None:
    double = rb.convert(network, exact()).double()
    save(arguments, "agree", "as trained, float64", differences(double, (test[0].double(), test[1])), test)
    snn = rb.convert(network, exact())
    save(arguments, "agree", "as trained", differences(snn, test), test)
    for index, neuron in enumerate(snn.neurons):
        if index % 2:
            neuron.initial_potential = torch.tensor(-0.25 if index % 4 == 1 else 1.25)
    save(arguments, "agree", "V0 = -θ/4 and 5θ/4 at every second site", differences(snn, test), test)


@torch.inference_mode()
def differences(snn: rb.SpikingNetwork, test: Test) -> dict[str, Any]:
    """On how many images the two executions predict another class, and the largest difference of a logit."""
    changed, largest = 0, 0.0
    for images in test[0].split(BATCH):
        snn.execution = "counts"
        counts = snn(images)
        snn.execution = "steps"
        steps = snn(images)
        changed += int((counts.argmax(1) != steps.argmax(1)).sum())
        largest = max(largest, float((counts - steps).abs().max()))
    snn.execution = "auto"
    stepped = [site.name for site in snn.sites if snn.neuron(site.name).response(snn.steps_of(site.name)) is None]
    return {"other class": changed, "largest logit difference": largest, "sites without closed form": len(stepped)}


def table8(network: TrainableGraph, arguments: argparse.Namespace, train: Test, test: Test) -> None:
    levels = {part.levels for part in network.activations.values()}
    if len(levels) > 1:
        raise SystemExit("table8 is about networks with one L; its sites have " + ", ".join(map(str, sorted(levels))))
    recipes = {
        "QCFS": rb.RateCoding(timesteps=max(TIMESTEPS), threshold="saturation", granularity="layer"),
        "QCFS + averaging": rb.QVM(timesteps=max(TIMESTEPS)),
    }
    for name, recipe in recipes.items():
        snn = rb.convert(network, recipe, calibration=train)
        save(arguments, "table8", f"L={min(levels)}, {name}", rows(snn, test, TIMESTEPS), test)


if __name__ == "__main__":
    main()
