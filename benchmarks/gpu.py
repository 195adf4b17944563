"""ResNet-20 on a GPU: simulation, closed form, calibration and training against the analog network, in one run.

    python benchmarks/gpu.py                  # on the GPU; writes gpu.json
    python benchmarks/gpu.py --device cpu --batch 32 --rounds 1 --methods RateCoding   # to try the script

Neurons are also compared with SpikingJelly's (``pip install spikingjelly``, with cupy or triton for their fast
backends), and the bytes that ours must read and write with those that a copy moves in the same time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import HERE, cifar, record, resnet20

import rheobase as rb
from rheobase.core.devices import find_device

STEPS = 8
METHODS = {
    "RateCoding": rb.RateCoding(timesteps=STEPS),
    "FTBC": rb.FTBC(timesteps=STEPS),
    "Graded": rb.Graded(timesteps=STEPS),
    "ParallelConversion": rb.ParallelConversion(timesteps=STEPS),
}


def seconds(functions: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of each until the device is idle again, run in turn after two rounds to warm up."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds + 2):
        for name, function in functions.items():
            _wait(device)
            start = time.perf_counter()
            function()
            _wait(device)
            if i >= 2:
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def networks(images: torch.Tensor, device: torch.device, rounds: int) -> dict[str, float]:
    """Simulation and closed form as multiples of the analog network's seconds."""
    simulated = rb.convert(resnet20(), METHODS["RateCoding"], calibration=images.cpu(), device=device)
    closed = rb.convert(resnet20(), METHODS["ParallelConversion"], calibration=images.cpu(), device=device)
    functions = {"ANN": lambda: simulated.ann(images)}
    for mode in ("plain", "fused"):

        def run(mode: str = mode) -> None:
            rb.neurons.set_fusion("always" if mode == "fused" else "never")
            simulated(images)

        functions[f"steps, T = {STEPS}, {mode}"] = run
    functions |= {f"counts, T = {STEPS}": lambda: closed(images)}
    fast = rb.for_inference(closed)
    functions |= {f"for_inference, T = {STEPS}": lambda: fast(images)}
    with torch.inference_mode():
        found = seconds(functions, device, rounds)
    rates = {f"{name}: times the ANN": round(value / found["ANN"], 3) for name, value in found.items()}
    return {**rates, "ANN: images / s": round(len(images) / found["ANN"])}


def layer(batch: int, device: torch.device, rounds: int) -> dict[str, float]:
    """One layer of integrate-and-fire neurons: its share of the bandwidth of a copy, and SpikingJelly's."""
    shape = (batch, 16, 32, 32)
    currents = torch.randn(STEPS, *shape, device=device)
    ours = rb.neurons.IntegrateFire(torch.tensor(1.0), torch.tensor(0.5)).to(device)
    rb.neurons.set_fusion("always")
    copy = torch.empty_like(currents)
    functions: dict[str, Callable[[], Any]] = {
        "copy": lambda: copy.copy_(currents),  # reads and writes as many bytes as neurons must
        "ours": lambda: ours.run(currents, ours.init(shape, currents[0])),
    }
    for backend, neuron in spikingjelly(currents).items():
        functions[f"SpikingJelly, {backend}"] = neuron
    with torch.inference_mode():
        found = seconds(functions, device, rounds)
    moved = 2 * currents.nbytes
    result = {f"layer, {name}: share of a copy's speed": round(found["copy"] / v, 3) for name, v in found.items()}
    return {**result, "copy: GB / s": round(moved / found["copy"] / 1e9, 1)}


def spikingjelly(currents: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The same neurons of SpikingJelly with every backend that runs here."""
    try:
        from spikingjelly.activation_based import functional, neuron
    except ImportError:
        return {}
    found: dict[str, Callable[[], Any]] = {}
    for backend in ("torch", "cupy", "triton"):
        try:
            other = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m", backend=backend).to(currents.device)
            other.eval()

            def run(other: Any = other) -> None:
                functional.reset_net(other)
                other(currents)

            run()
        except Exception as error:
            print(f"SpikingJelly's {backend}: {type(error).__name__}: {error}")
        else:
            found[backend] = run
    return found


def calibration(methods: list[str], device: torch.device) -> dict[str, float]:
    """Seconds to convert with 512 images, on the device and on the CPU."""
    images = cifar("train", limit=512, seed=0)[0]
    found = {}
    for name in methods:
        for place in dict.fromkeys((str(device), "cpu")):
            start = time.perf_counter()
            rb.convert(resnet20(), METHODS[name], calibration=images, device=place)
            found[f"{name}, calibration on {place}: s"] = round(time.perf_counter() - start, 1)
    return found


def training(device: torch.device) -> dict[str, float]:
    """Seconds of an epoch of 5,000 images: the ReLU network with levels, and a network through time, T = 4."""
    images, labels = cifar("train", limit=5000, seed=0)
    settings = rb.Training(epochs=2, learning_rate=0.01, batch_size=128)
    quantised = rb.quantise(resnet20(), rb.QVM(levels=4), calibration=images[:512], device=device)
    spiking = rb.convert(resnet20(), rb.Graded(timesteps=4, magnitude=1), calibration=images[:512], device=device)
    found = {}
    for name, network in (("quantised", quantised), ("through time, T = 4", spiking)):
        trained = rb.train(network, (images, labels), settings, accelerator=device.type)
        found[f"{name}: s / epoch"] = round(trained.history[-1].seconds, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--parts", default="networks,layer,calibration,training")
    given = parser.parse_args()
    device = find_device(given.device)
    images = cifar("test", limit=given.batch, seed=0)[0].to(device)
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "networks": lambda: networks(images, device, given.rounds),
        "layer": lambda: layer(given.batch, device, given.rounds),
        "calibration": lambda: calibration(given.methods.split(","), device),
        "training": lambda: training(device),
    }
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)}
    for part in given.parts.split(","):
        result |= parts[part]()
        for name, value in result.items():
            print(name, value, flush=True)
        if device.type == "cuda":
            record(HERE / "gpu.json", "python benchmarks/gpu.py", result)  # after each part, for short loans


if __name__ == "__main__":
    main()
