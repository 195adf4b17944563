"""Images per second of the closed form, as it is and made ready for inference, as a share of the analog network's.

ResNet-20, quantised without training (speed does not depend on the weights), batch normalisation folded on both sides,
same batch, memory format and threads, in turn in one process. Against the ReLU network and against the quantised one.

    python benchmarks/counts_speed.py
"""

from __future__ import annotations

from functools import partial

import torch
from common import HERE, cifar, interleaved, record, resnet20

import rheobase as rb


def main(batch: int = 128) -> None:
    images, _ = cifar("train", limit=batch, seed=0)
    relu = rb.convert(resnet20(), rb.RateCoding(timesteps=4, threshold="max"), calibration=images).ann
    networks = {}
    for levels in (4, 8, 32):
        recipe = rb.QVM(levels=levels)
        networks[levels] = rb.convert(rb.quantise(resnet20(), recipe, calibration=images), recipe)
    functions = {"ReLU network": lambda: relu(images), "quantised network": lambda: networks[4].ann(images)}
    for levels, network in networks.items():
        assert network.execution_mode == "counts"
        functions[f"counts, T = {levels}"] = partial(network, images)
        functions[f"for_inference, T = {levels}"] = partial(rb.for_inference(network), images)
    with torch.inference_mode():
        seconds = interleaved(functions, rounds=15)
    result: dict[str, float] = {}
    for name, value in seconds.items():
        result[f"{name}: speed against the ReLU network"] = round(seconds["ReLU network"] / value, 3)
        result[f"{name}: ms / image"] = round(1e3 * value / batch, 3)
    for name, value in result.items():
        print(name, value)
    record(HERE / "counts_speed.json", "python benchmarks/counts_speed.py", result)


if __name__ == "__main__":
    main()
