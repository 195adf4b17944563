"""Seconds of a layer of neurons as a multiple of integrate-and-fire neurons, compiled and in plain PyTorch.

python benchmarks/neuron_speed.py
"""

from __future__ import annotations

import torch
from common import HERE, interleaved, record

from rheobase import neurons

STEPS, SHAPE = 8, (64, 16, 32, 32)


def main() -> None:
    theta, v0 = torch.rand(SHAPE[1]) + 0.5, torch.tensor(0.5)
    layers = {
        "integrate-and-fire": neurons.IntegrateFire(theta, v0),
        "graded, -1..1": neurons.Graded(theta, v0, magnitude=1),
        "graded, -4..4": neurons.Graded(theta, v0, magnitude=4),
        "graded, -4..4, of either sign": neurons.Graded(theta, v0, magnitude=4, nonnegative=False),
        "signed": neurons.Signed(theta, v0),
        "multi-threshold, 8": neurons.MultiThreshold(theta, v0, magnitude=8),
        "burst, 0..4": neurons.Burst(theta, v0, magnitude=4),
    }
    currents = torch.randn(STEPS, *SHAPE).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    currents = currents.unflatten(0, (STEPS, SHAPE[0]))
    result: dict[str, dict[str, float]] = {name: {} for name in layers}
    for mode in ("always", "never"):
        neurons.set_fusion(mode)  # type: ignore[arg-type]
        with torch.inference_mode():
            seconds = interleaved(
                {
                    name: lambda layer=layer: layer.run(currents, layer.init(SHAPE, currents[0]))
                    for name, layer in layers.items()
                }
            )
        for name, value in seconds.items():
            kind = "compiled" if mode == "always" else "plain"
            result[name][kind] = round(value / seconds["integrate-and-fire"], 2)
    for name, ratios in result.items():
        print(name, ratios)
    record(HERE / "neuron_speed.json", "python benchmarks/neuron_speed.py", result)


if __name__ == "__main__":
    main()
