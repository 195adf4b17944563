"""The effect of input timing on a layer of integrate-and-fire neurons, for four kinds of input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL, Rounding
from rheobase.activations.staircase import clipped_count
from rheobase.core.checks import check_choice, check_positive, check_whole
from rheobase.core.results import Column, Result, Spread, Table, plain_values
from rheobase.core.seeds import generator
from rheobase.neurons import IntegrateFire

INPUTS = ("random", "uniform", "ann", "constant")


@dataclass(frozen=True)
class Scenario:
    """Results for one kind of input.

    Attributes:
        counts: N, spikes of every neuron in T steps, [trials, neurons].
        errors: mean over the neurons of |a − φ|, φ = θ·N/T, for each trial.
        correlations: Pearson's R of a and φ over the neurons, for each trial in which both vary.
    """

    counts: Tensor
    errors: tuple[float, ...]
    correlations: tuple[float, ...]

    @property
    def error(self) -> Spread | None:
        """Mean and standard deviation of the errors over the trials."""
        return Spread.of(self.errors)

    @property
    def correlation(self) -> Spread | None:
        """Mean and standard deviation of R over the trials; None if no trial has an R."""
        return Spread.of(self.correlations)


@dataclass(frozen=True)
class InputScenarios(Result):
    """Results of the same layers for every kind of input.

    Attributes:
        mean_input: z, time-mean of the current, [trials, neurons]; the same in all scenarios but ``"ann"``, whose
            current is the activation of z.
        levels: M, the quantised activation of z in units of θ/T, [trials, neurons].
        scenarios: by name: ``"random"``, ``"uniform"``, ``"ann"``, ``"constant"``.
        timesteps: T = L.
        threshold: θ of the layer.
        settings: the arguments of :func:`input_scenarios`.
    """

    mean_input: Tensor
    levels: Tensor
    scenarios: dict[str, Scenario]
    timesteps: int
    threshold: float
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the settings, and mean and deviation of each scenario, as plain values."""
        nothing = {"mean": None, "deviation": None}
        found = {
            name: {"error": plain_values(s.error) or nothing, "correlation": plain_values(s.correlation) or nothing}
            for name, s in self.scenarios.items()
        }
        return {"settings": self.settings, **found}

    def table(self) -> Table:
        """One row for each kind of input."""
        columns = (
            Column("input", lambda item: item[0], align="left"),
            Column("mean absolute error", lambda item: item[1].error, "{:.4f}"),
            Column("R", lambda item: item[1].correlation, "{:.4f}"),
        )
        return Table(columns, tuple(self.scenarios.items()))


def input_scenarios(
    *,
    rounding: Rounding = "round",
    timesteps: int = 8,
    neurons: int = 1000,
    inputs: int = 1000,
    input_threshold: float = 1.5,
    threshold: float = 2.0,
    trials: int = 1000,
    seed: int = 48,
) -> InputScenarios:
    r"""Run layers of integrate-and-fire neurons on one total input, timed in four ways (QVM, appendix A.1, Fig. 6).

    For each trial, input activations are drawn from U(0, θ') and rounded to whole spike counts n = T·a'/θ', so that
    a' = φ' as the paper requires; weights are drawn from U(−1, 1). The mean current is z = (θ'/T)·W·n, the activation
    (Eq. 4 at L = T) is a = (θ/T)·M with M = clip(Q(zT/θ), 0, T). The neurons have the V0 of Q (Theorem 3). Their
    currents are

    - ``"random"``: W·s[t]·θ', the n spikes at n of the T steps, drawn separately for each input;
    - ``"uniform"``: the same, spike k of n at step ⌊k·T/n⌋, k = 0..n−1: equally spaced from the first step on;
    - ``"ann"``: the ANN's output a, at every step;
    - ``"constant"``: z, at every step (Theorem 3).

    All computations are float64. The defaults are the paper's; the paper states neither the number of inputs of a
    neuron nor Q. With 1000 inputs the errors are close to the printed ones. The input ``"ann"`` lies exactly on the
    steps of the staircase: with ``rounding="ceil"`` it is off by one level unless a = θ (whole numbers, which
    Theorem 3 excludes in its case 3), with ``"floor"`` only if θ/T is no power of two and the potential is rounded.

    Args:
        rounding: Q.
        timesteps: T = L.
        neurons: number of neurons in the layer.
        inputs: number of inputs of every neuron.
        input_threshold: θ', amplitude of the input spikes.
        threshold: θ.
        trials: number of trials; each draws weights and inputs.
        seed: of weights, inputs and spike times.

    Raises:
        RecipeError: if an argument is not a positive (whole) number, or the rounding is unknown.

    Example:
        >>> import rheobase as rb
        >>> result = rb.measure.input_scenarios(neurons=20, inputs=10, trials=3)
        >>> result.scenarios["constant"].errors
        (0.0, 0.0, 0.0)
    """
    whole = {"timesteps": timesteps, "neurons": neurons, "inputs": inputs, "trials": trials}
    whole = {name: check_whole(value, name) for name, value in whole.items()}
    thresholds = {"input_threshold": input_threshold, "threshold": threshold}
    for name, size in thresholds.items():
        check_positive(size, name)
    check_choice(rounding, INITIAL_POTENTIAL, "rounding")
    potential, theta = INITIAL_POTENTIAL[rounding], torch.tensor(threshold, dtype=torch.float64)
    g = generator(seed)
    currents = {name: torch.empty(timesteps, trials, neurons, dtype=torch.float64) for name in INPUTS[:2]}
    z = torch.empty(trials, neurons, dtype=torch.float64)
    for trial in range(trials):
        weights = 2 * torch.rand(neurons, inputs, generator=g, dtype=torch.float64) - 1
        counts = (torch.rand(inputs, generator=g, dtype=torch.float64) * timesteps).round().long()
        z[trial] = weights @ counts.double() * (input_threshold / timesteps)
        for name, spikes in (
            ("random", at_random(counts, timesteps, g)),
            ("uniform", equally_spaced(counts, timesteps)),
        ):
            currents[name][:, trial] = spikes.double() @ weights.T * input_threshold
    levels = clipped_count(z, theta, timesteps, potential, strict=rounding == "ceil")
    currents["ann"] = (levels * (theta / timesteps)).expand(timesteps, trials, neurons)
    currents["constant"] = z.expand(timesteps, trials, neurons)
    neuron = IntegrateFire(theta, torch.tensor(potential, dtype=torch.float64))
    scenarios = {}
    for name in INPUTS:
        emitted = neuron.run(currents[name], neuron.init(z.shape, z))[0]
        scenarios[name] = _compare(levels.long(), torch.count_nonzero(emitted, 0), threshold / timesteps)
    settings = {"rounding": rounding, **whole, **thresholds, "seed": int(seed)}
    return InputScenarios(z, levels.long(), scenarios, timesteps, threshold, settings)


def at_random(counts: Tensor, timesteps: int, generator: torch.Generator) -> Tensor:
    """Return spike trains, bool [T, inputs], with the given counts [inputs] at random steps."""
    ranks = torch.rand(timesteps, len(counts), generator=generator, dtype=torch.float64).argsort(0).argsort(0)
    return ranks < counts


def equally_spaced(counts: Tensor, timesteps: int) -> Tensor:
    """Return spike trains, bool [T, inputs], with the given counts [inputs], spike k of n at step ⌊k·T/n⌋."""
    t = torch.arange(timesteps + 1).unsqueeze(1)
    before = (t * counts + timesteps - 1) // timesteps  # spikes before step t: ⌈t·n/T⌉, the number of k with k·T/n < t
    return before[1:] > before[:-1]


def _compare(levels: Tensor, counts: Tensor, spike: float) -> Scenario:
    gaps = (levels - counts).abs().sum(1).tolist()
    errors = tuple(spike * gap / levels.shape[1] for gap in gaps)
    pairs = zip(levels.double(), counts.double(), strict=True)  # R does not depend on the unit
    correlations = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs if _varies(*pair)]
    return Scenario(counts, errors, tuple(correlations))


def _varies(*values: Tensor) -> bool:
    return all(bool((value != value[0]).any()) for value in values)
