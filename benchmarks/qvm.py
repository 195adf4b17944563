"""QVM's measurements on a trained network: initial potential × time-steps (Table 5), exactness, unevenness (Fig. 3).

    python benchmarks/qvm.py runs/qcfs4 --levels 4 table exact unevenness
    python benchmarks/qvm.py runs/floor8 --levels 8 --rounding floor table
    python benchmarks/qvm.py runs/qcfs4 --levels 4 --images 1000 exact
    python benchmarks/qvm.py runs/qcfs4 --levels 4 --images 10000 double

The weights are those that ``benchmarks/quantised_training.py`` left in the folder, for the same levels and rounding.
``table``: accuracy at T = 1 to 32 for V0 = 0, θ/2 and θ. ``exact``: on how many images the spiking network predicts
another class than the quantised network, and the largest difference of a logit; for Pascal (which rounds to the
nearest) and QVM, each in closed form and simulated, and for plain integrate-and-fire. ``double``: the simulation of
Pascal and QVM against their closed form, both in float64. ``unevenness``: the unevenness
error of every site, for integrate-and-fire and QVM. ``--images``: how many test images, the first of a seeded shuffle;
what is simulated step by step costs T times as much. Every result is added to the file beside this script as soon as
it is there, in place of an older one on no more images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import safetensors.torch
import torch
from common import HERE, cifar, resnet20
from post_training import add

import rheobase as rb
from rheobase.activations.activation import INITIAL_POTENTIAL
from rheobase.measure.plots import unevenness_plot

TIMESTEPS = (1, 2, 4, 8, 16, 32)
POTENTIALS = {0.0: "0", 0.5: "θ/2", 1.0: "θ"}
PARTS = ("table", "exact", "double", "unevenness")
BATCH = 250

Test = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of quantised_training.py")
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--rounding", default="round", choices=tuple(INITIAL_POTENTIAL))
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--figure", type=Path, help="where to draw the unevenness")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    arguments = parser.parse_args()
    network = trained(arguments.folder, arguments.levels, arguments.rounding)
    test = cifar("test", limit=arguments.images, seed=0)
    for part in arguments.parts:
        if part == "table":
            table(network, arguments, test)
        elif part == "exact":
            exact(network, arguments, test)
        elif part == "double":
            double(network, arguments, test)
        else:
            unevenness(network, arguments, test)


def trained(folder: Path, levels: int, rounding: str) -> torch.nn.Module:
    """The quantised ResNet-20 with the weights in the folder."""
    told = folder / "training.json"
    if told.exists():  # there once the training is done; neither is in the weights
        result = json.loads(told.read_text())["result"]
        if (result["levels"], result["rounding"]) != (levels, rounding):
            raise SystemExit(f"{folder} was trained with --levels {result['levels']} --rounding {result['rounding']}")
    recipe = rb.QVM(levels=levels, rounding=rounding)
    # the images only choose the θ that the trained ones then replace
    network = rb.quantise(resnet20(), recipe, calibration=cifar("train", limit=64, seed=0))
    network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    return network.eval()


def save(arguments: argparse.Namespace, part: str, name: str, row: dict, test: Test) -> None:
    command = f"python benchmarks/qvm.py {arguments.folder} --levels {arguments.levels}"
    command += f" --rounding {arguments.rounding} --images {len(test[0])} {part}"
    key = f"L={arguments.levels} {arguments.rounding}: {name}"
    add(HERE / "qvm.json", command, key, {**row, "images": len(test[0])})


def table(network: torch.nn.Module, arguments: argparse.Namespace, test: Test) -> None:
    for potential, label in POTENTIALS.items():
        snn = rb.convert(network, rb.QVM(rounding=arguments.rounding, initial_potential=potential))
        result = rb.evaluate(snn, test, timesteps=TIMESTEPS)
        row = {"accuracy": {row.timesteps: row.accuracy for row in result.rows}, "ann": result.ann_accuracy}
        save(arguments, "table", f"V0 = {label}", row, test)


def exact(network: torch.nn.Module, arguments: argparse.Namespace, test: Test) -> None:
    recipes = {"QVM": rb.QVM(rounding=arguments.rounding)}
    if arguments.rounding == "round":
        recipes = {"Pascal": rb.Pascal(), **recipes}
    for name, recipe in recipes.items():
        snn = rb.convert(network, recipe)
        for execution in ("counts", "steps"):
            snn.execution = execution
            save(arguments, "exact", f"{name}, {execution}", compare(network, snn, test), test)
    snn = integrate_fire(network, arguments)
    save(arguments, "exact", "integrate-and-fire", compare(network, snn, test), test)


def double(network: torch.nn.Module, arguments: argparse.Namespace, test: Test) -> None:
    """Executions against each other where the order of sums tips (almost) no count."""
    for name, recipe in {"Pascal": rb.Pascal(), "QVM": rb.QVM()}.items():
        snn = rb.convert(network, recipe).double()
        changed, largest = 0, 0.0
        for images in test[0].split(BATCH):
            logits = {}
            for execution in ("counts", "steps"):
                snn.execution = execution
                logits[execution] = snn(images.double())
            changed += int((logits["counts"].argmax(1) != logits["steps"].argmax(1)).sum())
            largest = max(largest, float((logits["counts"] - logits["steps"]).abs().max()))
        row = {"other class": changed, "largest logit difference": largest}
        save(arguments, "double", f"{name}, steps against counts in float64", row, test)


def integrate_fire(network: torch.nn.Module, arguments: argparse.Namespace) -> rb.SpikingNetwork:
    """Plain neurons with the trained thresholds, the T of the levels and the V0 of the rounding."""
    recipe = rb.RateCoding(
        timesteps=arguments.levels,
        threshold="saturation",
        granularity="layer",
        initial_potential=INITIAL_POTENTIAL[arguments.rounding],
    )
    return rb.convert(network, recipe, calibration=cifar("train", limit=64, seed=0))


@torch.inference_mode()
def compare(network: torch.nn.Module, snn: rb.SpikingNetwork, test: Test) -> dict[str, float | int]:
    """With the quantised network in which batch normalisation is folded, and with the one that was trained."""
    changed = changed_trained = correct = 0
    largest = largest_trained = 0.0
    for images, labels in zip(test[0].split(BATCH), test[1].split(BATCH), strict=True):
        logits, folded, original = snn(images), snn.ann(images), network(images)
        changed += int((logits.argmax(1) != folded.argmax(1)).sum())
        changed_trained += int((logits.argmax(1) != original.argmax(1)).sum())
        largest = max(largest, float((logits - folded).abs().max()))
        largest_trained = max(largest_trained, float((logits - original).abs().max()))
        correct += int((logits.argmax(1) == labels).sum())
    return {
        "accuracy": correct / len(test[0]),
        "other class": changed,
        "largest logit difference": largest,
        "other class, before folding": changed_trained,
        "largest logit difference, before folding": largest_trained,
    }


def unevenness(network: torch.nn.Module, arguments: argparse.Namespace, test: Test) -> None:
    networks = {
        "integrate-and-fire": integrate_fire(network, arguments),
        "QVM": rb.convert(network, rb.QVM(rounding=arguments.rounding)),
    }
    results = {name: rb.measure.unevenness(snn, test) for name, snn in networks.items()}
    for name, result in results.items():
        save(arguments, "unevenness", f"unevenness, {name}", result.to_json(), test)
    if arguments.figure:
        unevenness_plot(results, arguments.figure)


if __name__ == "__main__":
    main()
