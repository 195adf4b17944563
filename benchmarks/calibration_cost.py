"""Seconds of a calibration pass as a multiple of one simulation of the same images, and its peak memory.

ResNet-20, T = 8, 128 images to fit on and 32 held out, which the pass simulates too; FTBC with its default options, and
all its iterations. In turn in one process; peak memory in a process of its own.

    python benchmarks/calibration_cost.py --rounds 3
"""

from __future__ import annotations

import copy
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
from common import HERE, cifar, record, resnet20

import rheobase as rb
from rheobase.passes import CalibrationData, CalibrationPass

PASSES: dict[str, CalibrationPass] = {
    "FTBC": rb.passes.TemporalBias(batches=1, patience=100),
    "LP": rb.passes.BiasCorrection(),
    "AP": rb.passes.PotentialCorrection(),
}


def prepare() -> tuple[rb.SpikingNetwork, CalibrationData]:
    images, labels = cifar("train", limit=160, seed=0)
    network = rb.convert(resnet20(), rb.RateCoding(timesteps=8), calibration=images)
    return network, CalibrationData.pool((images, labels), num_calibration_images=160, seed=0)


def costs(rounds: int) -> dict[str, float]:
    network, data = prepare()
    rb.neurons.set_fusion("always")
    network(data.fit)
    ratios: dict[str, list[float]] = {name: [] for name in PASSES}
    for _ in range(rounds):
        for name, calibration_pass in PASSES.items():
            start = time.perf_counter()
            network(data.fit)
            simulated = time.perf_counter()
            calibration_pass.apply(copy.deepcopy(network), data)
            ratios[name].append((time.perf_counter() - simulated) / (simulated - start))
            print(name, round(ratios[name][-1], 1), flush=True)
    return {name: round(sorted(values)[len(values) // 2], 1) for name, values in ratios.items()}


def save(folder: Path) -> None:
    """Network and images, for the processes whose memory is measured."""
    images, labels = cifar("train", limit=160, seed=0)
    network, _ = prepare()
    rb.save(network, folder / "network")
    safetensors.torch.save_file({"images": images, "labels": labels}, folder / "images.safetensors")


def peak(name: str, folder: Path) -> None:
    """Print the peak resident memory, in MiB, before and after the pass."""
    network = rb.load(folder / "network")
    stored = safetensors.torch.load_file(folder / "images.safetensors")
    data = CalibrationData.pool((stored["images"], stored["labels"]), num_calibration_images=160, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    PASSES[name].apply(network, data)
    print(f"{before:.0f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--peak":
        peak(sys.argv[2], Path(sys.argv[3]))
        return
    if len(sys.argv) == 3 and sys.argv[1] == "--save":
        save(Path(sys.argv[2]))
        return
    rounds = int(sys.argv[2]) if sys.argv[1:2] == ["--rounds"] else 3
    result: dict[str, object] = {"rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        # in processes of their own, before this one grows: a child's peak begins at its parent's size
        subprocess.run([sys.executable, __file__, "--save", folder], check=True)
        for name in PASSES:
            command = [sys.executable, __file__, "--peak", name, folder]
            numbers = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            result[f"peak MiB, {name}"] = {"after loading": float(numbers[-2]), "after the pass": float(numbers[-1])}
    result["times one simulation of 128 images"] = costs(rounds)
    for name, value in result.items():
        print(name, value)
    record(HERE / "calibration_cost.json", f"python benchmarks/calibration_cost.py --rounds {rounds}", result)


if __name__ == "__main__":
    main()
