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
import time

from common import HERE, cifar, record, resnet20

import rheobase as rb
from rheobase.calibrate import CalibrationData, CalibrationPass

PASSES: dict[str, CalibrationPass] = {
    "FTBC": rb.TemporalBias(batches=1, patience=100),
    "LP": rb.BiasCorrection(),
    "AP": rb.PotentialCorrection(),
}


def prepare() -> tuple[rb.SpikingNetwork, CalibrationData]:
    images, labels = cifar("train", limit=160, seed=0)
    network = rb.convert(resnet20(), rb.RateCoding(timesteps=8), calibration=images)
    return network, CalibrationData.pool((images, labels), limit=160, seed=0)


def costs(rounds: int) -> dict[str, float]:
    network, data = prepare()
    rb.set_fusion("always")
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


def peak(name: str) -> None:
    """Print the peak resident memory, in MiB, before and after the pass."""
    network, data = prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    PASSES[name].apply(network, data)
    print(f"{before:.0f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--peak":
        peak(sys.argv[2])
        return
    rounds = int(sys.argv[2]) if sys.argv[1:2] == ["--rounds"] else 3
    result: dict[str, object] = {"rounds": rounds, "times one simulation of 128 images": costs(rounds)}
    for name in PASSES:
        command = [sys.executable, __file__, "--peak", name]
        numbers = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        result[f"peak MiB, {name}"] = {"before": float(numbers[-2]), "after": float(numbers[-1])}
    for name, value in result.items():
        print(name, value)
    record(HERE / "calibration_cost.json", f"python benchmarks/calibration_cost.py --rounds {rounds}", result)


if __name__ == "__main__":
    main()
