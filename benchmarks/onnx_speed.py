"""Images per second of ONNX files in onnxruntime, and their size, on one thread.

ResNet-20 by parallel conversion, on whole numbers. In turn in one process: the exported closed form, the same network
in Rheobase's closed form, and the float analog network (batch normalisation folded) exported by PyTorch. The classes
and the spike counts of the exported network are compared with the network's on every image.

    OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import CIFAR, HERE, cifar, interleaved, record, resnet20

import rheobase as rb

TIMESTEPS = 32


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def export_float(network: torch.nn.Module, images: torch.Tensor, path: Path) -> None:
    """The float network by PyTorch's exporter that traces, which needs no other package than onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated
        names: dict[str, Any] = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
        torch.onnx.export(network, (images[:2],), str(path), dynamo=False, **names)


def compared(network: rb.network.IntegerNetwork, exported: Any, sites: dict[str, str], images: torch.Tensor) -> Any:
    """Images with the same class, and sites with the same counts on all of them."""
    found: dict[str, list[torch.Tensor]] = {}
    steps = network.timesteps
    logits = network.readouts(
        images,
        (steps,),
        monitor=lambda site, signal: found.setdefault(site.name, []).append((steps * signal.values).round()),
    )[0]
    outputs = [output.name for output in exported.get_outputs()]
    same, equal = 0, dict.fromkeys(sites, True)
    counts = {name: torch.cat(parts) for name, parts in found.items()}
    for start in range(0, len(images), 100):
        part = slice(start, start + 100)
        pixels = rb.exchange.onnx.to_pixels(network, images[part]).numpy()
        values = dict(zip(outputs, exported.run(None, {"pixels": pixels}), strict=True))
        same += int((values["sums"].argmax(1) == logits[part].argmax(1).numpy()).sum())
        for site, output in sites.items():
            equal[site] &= np.array_equal(values[output], counts[site][part].numpy())
    return {
        "images": len(images),
        "same class": same,
        "sites": len(sites),
        "sites with same counts": sum(equal.values()),
    }


def main(num_images: int = 1000, batch: int = 100) -> None:
    torch.set_num_threads(1)
    calibration, _ = cifar("train", limit=512, seed=0)
    images, _ = cifar("test", limit=num_images, seed=0)
    snn = rb.convert(resnet20(), rb.ParallelConversion(timesteps=TIMESTEPS), calibration=calibration)
    network = rb.integers(snn, calibration=calibration, preprocessing=CIFAR)
    first = images[:batch]
    pixels = rb.exchange.onnx.to_pixels(network, first).numpy()
    with tempfile.TemporaryDirectory() as folder:
        whole, counting, analog = (Path(folder) / f"{name}.onnx" for name in ("whole", "counting", "float"))
        written = rb.exchange.export_onnx(network, whole)
        sites = rb.exchange.export_onnx(network, counting, spikes=True).sites
        export_float(snn.ann, images, analog)
        sizes = {"whole numbers": whole.stat().st_size, "float": analog.stat().st_size}
        check = compared(network, session(counting), sites, images)
        integers, floats = session(whole), session(analog)
    functions = {
        "onnxruntime, whole numbers": partial(integers.run, ["sums"], {"pixels": pixels}),
        "onnxruntime, float analog network": partial(floats.run, None, {"images": first.numpy()}),
        "Rheobase, whole numbers": partial(network, first),
    }
    with torch.inference_mode():
        seconds = interleaved(functions)
    result = {
        "images per second": {name: round(batch / value, 1) for name, value in seconds.items()},
        "bytes": sizes,
        "agreement": check,
        "operators": written.operators,
        "timesteps": TIMESTEPS,
        "batch": batch,
        "onnxruntime": onnxruntime.__version__,
    }
    for name, value in result.items():
        print(name, value)
    record(HERE / "onnx_speed.json", "OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py", result)


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:]))
