"""What an image costs and where the error enters: ResNet-20 on CIFAR-10 test images, methods without training.

    python benchmarks/cost.py 1000 RateCoding:4 RateCoding:8 RateCoding:32 FTBC:4 FTBC:8 SNNCalibration:8

The first argument is the number of images; then ``method:T``. Calibration on 512 training images. Every result is added
to the file beside this script as soon as it is there, and a plot of the errors is drawn with ``PLOTS`` set to a folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import HERE, cifar, record, resnet20

import rheobase as rb
from rheobase.graph.sites import Site
from rheobase.measure._diagnose import TERMS
from rheobase.measure.plots import diagnosis_plot
from rheobase.methods import METHODS
from rheobase.passes.statistics import channel_means
from rheobase.signals.signal import Signal

FILE = HERE / "cost_resnet20.json"


def main() -> None:
    count, *settings = sys.argv[1:]
    model, calibration = resnet20(), cifar("train", limit=512, seed=0)
    images = cifar("test", limit=int(count), seed=0)[0]
    for setting in settings:
        method, _, timesteps = setting.partition(":")
        snn = rb.convert(model, METHODS[method](timesteps=int(timesteps)), calibration=calibration, progress=True)
        start = time.perf_counter()
        spent = {costs: rb.energy(snn, images, costs=costs) for costs in ("fp32-45nm", "int8-45nm")}
        middle = time.perf_counter()
        found = rb.diagnose(snn, images)
        seconds = [round(middle - start, 1), round(time.perf_counter() - middle, 1)]
        if "PLOTS" in os.environ:
            diagnosis_plot(found, Path(os.environ["PLOTS"]) / f"diagnosis-{method}-{timesteps}.png")
        when, fp32, last = rb.latency(snn), spent["fp32-45nm"], found.rows[-1]
        add(
            setting,
            {
                "images": len(images),
                "latency": when.final,
                "spikes_per_neuron": round(fp32.spike_rate, 4),
                "macs": round(fp32.macs),
                "acs": round(fp32.acs),
                "updates": round(fp32.updates),
                "ann_macs": round(fp32.ann_macs),
                "energy_ratio": {name: round(energy.ratio, 4) for name, energy in spent.items()},
                "most_error_enters_at": found.entry.site,
                "error_of_the_last_site": round(last.relative, 4),
                "mean_size_of_the_parts": {
                    name: round(sum(row.terms[name].size / row.activation for row in found.rows) / len(found.rows), 4)
                    for name in TERMS
                },
                "largest_gap_of_the_sum_of_the_parts": gap(snn, images, found),
                "seconds_energy_diagnosis": seconds,
            },
        )


def gap(snn: rb.SpikingNetwork, images: torch.Tensor, found: rb.measure.Diagnosis) -> float:
    """The most, over all sites, by which the parts' means miss the error measured apart from the diagnosis."""
    emitted = torch.zeros(len(snn.sites), dtype=torch.float64)

    def watch(site: Site, signal: Signal) -> None:
        emitted[site.index] += signal.mean().double().sum() / (site.neurons * len(images))

    snn.execution = "steps"
    snn.readouts(images, (snn.timesteps,), monitor=watch)
    snn.execution = "auto"
    analog = [float(mean.mean()) for mean in channel_means(snn.ann, images)]
    errors = [float(x) - a for x, a in zip(emitted, analog, strict=True)]
    sums = [sum(term.mean for term in row.terms.values()) for row in found.rows]
    return max(abs(total - error) for total, error in zip(sums, errors, strict=True))


def add(setting: str, row: dict[str, Any]) -> None:
    """Add one result to the file, in place of an older one for the same setting."""
    print(setting, row, flush=True)
    rows = json.loads(FILE.read_text())["result"] if FILE.exists() else {}
    rows[setting] = row
    record(FILE, f"python benchmarks/cost.py {row['images']} {' '.join(rows)}", rows)


if __name__ == "__main__":
    main()
