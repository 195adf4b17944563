"""QVM, appendix A.1 (Fig. 6): one layer of integrate-and-fire neurons under the same total input, timed in four ways.

    python examples/input_scenarios.py
    python examples/input_scenarios.py --rounding ceil --trials 10 --figure scenarios.png

For each trial, the spike counts n of the inputs and the weights W are drawn. All four currents come from the same mean
z = (θ'/T) W n:

- random: W s[t] θ', the n spikes of each input at random steps;
- uniform: the same, spike k of n at step ⌊k T/n⌋: equally spaced from the first step on;
- ann: the output of the quantised activation of z, at every step;
- constant: z, at every step (Theorem 3).

The settings are the paper's, which states neither the number of inputs of a neuron nor the rounding. With 1000 inputs
the errors are close to the printed ones. The current "ann" lies on the edges of the staircase, so that rounding up is
off by one level (Theorem 3 excludes whole numbers in its case 3).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib import pyplot
from torch import Tensor

from rheobase.activations import Rounding
from rheobase.neurons import ConstantCurrent, IntegrateFire

INPUT_THRESHOLD, THRESHOLD = 1.5, torch.tensor(2.0, dtype=torch.float64)


@dataclass(frozen=True)
class Found:
    """z, the quantised activation in units of θ/T, and the spike counts by kind of input; each [trials, neurons]."""

    z: Tensor
    levels: Tensor
    counts: dict[str, Tensor]

    def errors(self, kind: str, timesteps: int) -> Tensor:
        """Mean |a − φ| of each trial, with φ = θ N/T."""
        return THRESHOLD / timesteps * (self.levels - self.counts[kind]).abs().double().mean(1)

    def correlations(self, kind: str) -> Tensor:
        """Pearson's R of a and φ over the neurons of each trial; NaN where one of them does not vary."""
        pairs = torch.stack([self.levels, self.counts[kind]], 1).double()
        return torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs])


def run(rounding: Rounding, timesteps: int, neurons: int, inputs: int, trials: int, seed: int = 48) -> Found:
    """Run ``trials`` layers under the four currents, in float64."""
    g = torch.Generator().manual_seed(seed)
    timed = {kind: torch.empty(timesteps, trials, neurons, dtype=torch.float64) for kind in ("random", "uniform")}
    z = torch.empty(trials, neurons, dtype=torch.float64)
    for trial in range(trials):
        weights = 2 * torch.rand(neurons, inputs, generator=g, dtype=torch.float64) - 1
        counts = (torch.rand(inputs, generator=g, dtype=torch.float64) * timesteps).round().long()
        z[trial] = weights @ counts.double() * (INPUT_THRESHOLD / timesteps)
        spikes = {"random": at_random(counts, timesteps, g), "uniform": equally_spaced(counts, timesteps)}
        for kind, current in timed.items():
            current[:, trial] = spikes[kind].double() @ weights.T * INPUT_THRESHOLD
    closed = ConstantCurrent(THRESHOLD, timesteps, rounding)  # its closed form is the quantised activation
    response = closed.response(timesteps)
    assert response is not None
    levels = response.count(z)
    ann = levels * (THRESHOLD / timesteps)
    steady = {"ann": ann.expand(timesteps, -1, -1), "constant": z.expand(timesteps, -1, -1)}
    neuron = IntegrateFire(THRESHOLD, torch.as_tensor(closed.v0, dtype=torch.float64))
    found = {}
    for kind, current in {**timed, **steady}.items():
        emitted, _ = neuron.run(current, neuron.init(z.shape, z))
        found[kind] = emitted.count_nonzero(0)
    return Found(z, levels.long(), found)


def at_random(counts: Tensor, timesteps: int, g: torch.Generator) -> Tensor:
    """Spike trains, bool [T, inputs], with the given counts [inputs] at random steps."""
    ranks = torch.rand(timesteps, len(counts), generator=g, dtype=torch.float64).argsort(0).argsort(0)
    return ranks < counts


def equally_spaced(counts: Tensor, timesteps: int) -> Tensor:
    """Spike trains, bool [T, inputs], with the given counts [inputs], spike k of n at step ⌊k·T/n⌋."""
    t = torch.arange(timesteps + 1).unsqueeze(1)
    before = (t * counts + timesteps - 1) // timesteps  # spikes before step t: ⌈t·n/T⌉, the number of k with k·T/n < t
    return before[1:] > before[:-1]


def draw(found: Found, timesteps: int, path: str) -> None:
    """Fig. 6: spikes against mean input in the first trial, and the distribution of |a − φ| in all trials."""
    figure, (above, below) = pyplot.subplots(2, 4, figsize=(12, 5.6), sharey="row", layout="constrained")
    order = found.z[0].argsort()
    for axes, histogram, (kind, counts) in zip(above, below, found.counts.items(), strict=True):
        axes.plot(found.z[0] / THRESHOLD, counts[0], ".", markersize=3)
        axes.plot(found.z[0][order] / THRESHOLD, found.levels[0][order], color="0.35", drawstyle="steps-mid")
        axes.set(title=f"{kind} input", xlabel="mean input z / θ", xlim=(-1, 2))
        gaps = (counts - found.levels).abs().flatten().bincount(minlength=timesteps + 1)
        histogram.bar(range(timesteps + 1), (100 * gaps / gaps.sum()).tolist())
        histogram.set(xlabel="|a − φ| (in units of θ/T)")
    above[0].set_ylabel("spikes in T steps")
    below[0].set_ylabel("neurons (%)")
    figure.savefig(path)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print mean ± deviation over the trials of the error and of R, for each kind of input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounding", default="round", choices=("floor", "round", "ceil"))
    for name, default in {"timesteps": 8, "neurons": 1000, "inputs": 1000, "trials": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--figure")
    options = parser.parse_args(arguments)
    found = run(options.rounding, options.timesteps, options.neurons, options.inputs, options.trials)
    for kind in found.counts:
        error, r = found.errors(kind, options.timesteps), found.correlations(kind)
        print(f"{kind:8}  |a − φ| {error.mean():.4f} ± {error.std():.4f}  R {r.mean():.4f} ± {r.std():.4f}")
    if options.figure:
        draw(found, options.timesteps, options.figure)


if __name__ == "__main__":
    main()
