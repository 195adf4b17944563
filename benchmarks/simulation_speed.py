"""Seconds and peak memory of a simulation as a multiple of the analog network's own.

Both run the same folded graph on the same batch, in the same memory format, with the same threads, in turn in one
process. Peak memory is read from the operating system in a process of its own for each case, and again in one with
``rb.keep_freed_memory()``.

    python benchmarks/simulation_speed.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch
from common import HERE, cifar, efficientnet_lite0, imagenet_sample, interleaved, record, resnet20

import rheobase as rb


def resnet(timesteps: int, images: torch.Tensor) -> rb.SpikingNetwork:
    return rb.convert(resnet20(), rb.RateCoding(timesteps=timesteps), calibration=images)


def speed(timesteps: int = 8, batch: int = 128) -> dict[str, float]:
    images, _ = cifar("train", limit=batch, seed=0)
    network = resnet(timesteps, images)

    def ann() -> None:
        with torch.inference_mode():
            network.ann(images)

    result: dict[str, float] = {}
    for mode in ("always", "never"):
        rb.neurons.set_fusion(mode)  # type: ignore[arg-type]
        seconds = interleaved({"ann": ann, "snn": lambda: network(images)})
        result[f"ratio ({'fused' if mode == 'always' else 'plain'})"] = round(seconds["snn"] / seconds["ann"], 2)
        result[f"ann ms / image ({mode})"] = round(1e3 * seconds["ann"] / batch, 3)
        result[f"snn ms / image ({mode})"] = round(1e3 * seconds["snn"] / batch, 3)
    return result


def prepare(case: str, folder: Path) -> None:
    """Convert, and save the network and a batch."""
    if case == "resnet20":
        images, _ = cifar("train", limit=128, seed=0)
        network = resnet(8, images)
    else:
        (images, _), _ = imagenet_sample()
        images = images[:32]
        network = rb.convert(efficientnet_lite0(), rb.RateCoding(timesteps=32), calibration=images)
    rb.save(network, folder / "network")
    safetensors.torch.save_file({"images": images}, folder / "images.safetensors")


def one_batch(folder: Path) -> None:
    """Simulate one batch in this process; print the peak resident memory (MiB) before and after, and the seconds."""
    network = rb.load(folder / "network")
    images = safetensors.torch.load_file(folder / "images.safetensors")["images"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    network(images)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{before:.0f} {after:.0f} {network.sub_batch_size(network.timesteps)} {seconds:.1f}")


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--one-batch":
        if sys.argv[3] == "keep":
            assert rb.keep_freed_memory()
        one_batch(Path(sys.argv[2]))
        return
    if len(sys.argv) == 4 and sys.argv[1] == "--prepare":
        prepare(sys.argv[2], Path(sys.argv[3]))
        return
    result: dict[str, object] = {}
    for case in ("resnet20", "efficientnet_lite0"):
        with tempfile.TemporaryDirectory() as folder:
            # each in a process of its own, before this one grows: a child's peak begins at its parent's size
            subprocess.run([sys.executable, __file__, "--prepare", case, folder], check=True)
            for name, memory in ((case, "give back"), (f"{case}, freed memory kept", "keep")):
                command = [sys.executable, __file__, "--one-batch", folder, memory]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                before, after, sub_batch, seconds = map(float, run.stdout.split()[-4:])
                result[f"one batch, {name}"] = {
                    "peak MiB after loading": before,
                    "peak MiB after simulating": after,
                    "images at once": sub_batch,
                    "seconds": seconds,
                }
    result["ResNet-20, T = 8, batch 128"] = speed()
    for name, value in result.items():
        print(name, value)
    record(HERE / "simulation_speed.json", "python benchmarks/simulation_speed.py", result)


if __name__ == "__main__":
    main()
