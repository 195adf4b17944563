"""Peak memory of evaluations and comparisons on 1, 10 and 100 times as many images, which are made when they are read.

    python benchmarks/streaming.py                  # 2,000, 20,000 and 200,000 images of 224×224
    python benchmarks/streaming.py --images 2000,20000

Each case is a process of its own; its peak resident memory is read from the operating system. The network is small, so
that reading images is most of the work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import HERE, record
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rheobase as rb

CASES = ("evaluate", "energy", "compare")


class Made(Dataset[tuple[Tensor, int]]):
    """Images that do not exist before they are read: a seeded piece of noise, moved by the index."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.noise = torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        row, column = i // 76 % 76, i % 76
        return self.noise[:, row : row + 224, column : column + 224] * (1 + i % 1000 / 1000), i % 10


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 10),
    )


def measure(case: str, images: int) -> None:
    """Run a case in this process, and print its seconds and the peak memory in MiB."""
    torch.set_num_threads(1)
    calibration = Made(1_000_000, 1)
    test = DataLoader(Made(images, 2), batch_size=100)
    recipe = rb.RateCoding(timesteps=2)
    snn = rb.convert(network(), recipe, calibration=calibration, num_calibration_images=64)
    start = time.perf_counter()
    if case == "compare":
        rb.compare(network(), [recipe], calibration, test, (2,), num_calibration_images=64)
    else:
        {"evaluate": rb.evaluate, "energy": rb.energy}[case](snn, test)
    seconds = time.perf_counter() - start
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(f"{seconds:.1f} {peak}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="2000,20000,200000")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "IMAGES"))
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], int(given.measure[1]))
        return
    rows = {}
    for case in given.cases.split(","):
        for images in map(int, given.images.split(",")):
            command = [sys.executable, __file__, "--measure", case, str(images)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, peak = map(float, run.stdout.split()[-2:])
            rows[f"{case}, {images} images"] = {"seconds": seconds, "peak_mib": peak}
            print(case, images, rows[f"{case}, {images} images"], flush=True)
    record(HERE / "streaming.json", f"python benchmarks/streaming.py --images {given.images}", rows)


if __name__ == "__main__":
    main()
