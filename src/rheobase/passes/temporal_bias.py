"""Forward temporal bias correction (FTBC)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.data.calibration_data import CalibrationData
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.sites import Site
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.neurons.response import finite_amplitude
from rheobase.passes.calibration_pass import CalibrationPass, Changes, refuse_waiting, settable
from rheobase.passes.held_out import Snapshot, relative_error
from rheobase.passes.statistics import channel_means
from rheobase.signals.signal import Signal, along_channels

DIVERGED = 100.0
"""A bias of so many thresholds no longer corrects anything."""
PIECE = 2**17
"""Potentials whose spikes are counted at once: few enough for a cache, and for a float to count them exactly."""


class TemporalBias(CalibrationPass):
    r"""Give every channel a bias for every step, so that it fires at each step as often as the ANN's activation asks.

    Wu et al. 2024, Algorithm 1. At every site and step, with u the potential before firing,

    .. math::
        b[t] \leftarrow b[t] + \alpha \, \big( E[\theta\,k(u[t] - b[t])] - E[\min(a, m\theta)] \big)

    where E is the mean over all calibration images and the channel's places, k the spikes that the neuron's rule makes
    of a potential (one at θ and above, for integrate-and-fire) and m the most that it emits in a step. This is repeated
    ``updates`` times with the same u; then the step is done with the new b[t], and what it emits goes on to the next
    layer and the next step. Three things differ from the print: b is *subtracted* from the potential (Eq. 4 adds what
    line 3 defines as SNN − ANN, which diverges); the target is clipped at θ, more than which no neuron can emit; and
    all batches are pooled, so that their order and size do not matter. With ``updates=1`` only whole passes are
    repeated, as in the paper; more of them settle a bias before anything that depends on it is looked at, without
    another simulation.

    A bias at (site, step) depends only on earlier sites and steps, so all layers are corrected in *one* simulation of
    the calibration images, step by step. That is Algorithm 1's order of layers, and costs (iterations) simulations in
    all, with the memory of one step.

    With ``ramp`` γ > 0 the deeper a site lies, the later it fires (our own). What it has to emit in all stays the same,
    but step t of T (from 0) is to emit

    .. math:: E[\min(a, \theta)] \, (1 + g \, r_t), \qquad r_t = \frac{2t - (T - 1)}{T - 1}, \qquad
        g = \min\Big(\gamma \, \frac{d}{D}, \; \frac{\theta}{E[\min(a, \theta)]} - 1\Big)

    for a site with at most d sites before it on a path, D the largest d. A deep layer's first steps see little more
    than the noise of a few spikes; it decides better when more has come in. γ = 0 is the paper's even target.

    After every iteration the network is judged by its logits on held-out images; the best one is kept, which may be
    the one the pass was given.

    Args:
        alpha: α > 0.
        ramp: γ, 0 to 1.
        updates: how often a bias is corrected each time its step is reached.
        iterations: how often all steps are gone through, at most.
        batch_size: images in a batch.
        batches: how many batches are pooled.
        patience: stop after so many iterations without a better one.

    Raises:
        CalibrationError: for fewer calibration images than one batch; for neurons that have no bias.
    """

    kind: Literal["temporal_bias"] = "temporal_bias"
    alpha: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    ramp: float = Field(default=0, ge=0, le=1)
    updates: int = Field(default=20, ge=1)
    iterations: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)
    batches: int = Field(default=2, ge=1)
    patience: int = Field(default=3, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``bias`` [T, C] of every neuron; ``history`` has a record for each iteration, 0 for the start."""
        changes = Changes()
        neurons = _neurons(network)
        refuse_waiting(network)
        images = self._images(data, changes)
        for site, neuron in zip(network.sites, neurons, strict=True):
            zeros = torch.zeros(network.timesteps, site.channels, device=neuron.amplitude.device)
            there = cast("Tensor | None", neuron.bias)
            neuron.set(bias=zeros if there is None else zeros + there)
        ceilings = [finite_amplitude(neuron.amplitude) * neuron.alphabet.most for neuron in neurons]
        targets, slopes = {}, {name: self.ramp * depth for name, depth in relative_depths(network.sites).items()}
        for site, mean, ceiling in zip(
            network.sites, channel_means(network.ann, images, ceilings), ceilings, strict=True
        ):
            steps = step_targets(mean, ceiling.double().cpu(), network.timesteps, slopes[site.name])
            targets[site.name] = steps.to(network.graph.device)
            if not bool(mean.any()):
                changes.notes.append(f"{site.name}: no activity on the calibration images")

        judge = _Judge(network, data)
        best = judge.record(0)
        changes.history.append(best)
        original = kept = Snapshot(network)
        for iteration in track(range(1, self.iterations + 1), "correcting biases", show=progress):
            _correct(network, images, targets, self.alpha, self.updates)
            diverged = _diverged(network)
            if diverged is not None:
                changes.notes.append(
                    f"stopped in iteration {iteration}: the biases of {diverged} diverge; those of iteration "
                    f"{best['iteration']} kept; use a smaller alpha"
                )
                break
            record = judge.record(iteration)
            changes.history.append(record)
            if not judge.possible or record["logit_error"] < best["logit_error"]:
                best, kept = record, Snapshot(network)
            elif iteration - best["iteration"] >= self.patience:
                break
        kept.restore(network)
        if not judge.possible:
            changes.notes.append(f"not checked: no images are held out; iteration {best['iteration']} kept")
        elif best["iteration"] == 0:
            changes.notes.append("the original network kept: no iteration lowered the logit error on held-out images")
        changes.changed = original.changed(network)
        return changes

    def _images(self, data: CalibrationData, changes: Changes) -> Tensor:
        wanted, there = self.batch_size * self.batches, len(data.fit)
        if there < self.batch_size:
            raise CalibrationError(
                f"has {there} images to fit on ({len(data.held_out)} are held out), fewer than one batch of "
                f"{self.batch_size}",
                where="calibration data",
                remedy=f"give at least {-(-self.batch_size * 5 // 4)} images, or set batch_size to at most {there}",
            )
        if there < wanted:
            changes.notes.append(f"{there} images for {self.batches} batches of {self.batch_size}: all used")
        return data.fit[:wanted]


class _Judge:
    """Measures a network on the held-out images; the ANN's side is computed once."""

    @torch.inference_mode()
    def __init__(self, network: SpikingNetwork, data: CalibrationData) -> None:
        self.network, self.images, self.labels = network, data.held_out, data.held_out_labels
        self.possible = len(self.images) > 0
        if self.possible:
            self.reference = network.ann(self.images.to(network.graph.device)).double()

    @torch.inference_mode()
    def record(self, iteration: int) -> dict[str, Any]:
        """Logit error, agreement with the ANN, and accuracy where there are labels."""
        if not self.possible:
            return {"iteration": iteration}
        logits = self.network(self.images)
        predicted = logits.argmax(1)
        record: dict[str, Any] = {
            "iteration": iteration,
            "logit_error": relative_error(logits, self.reference),
            "agreement": float((predicted == self.reference.argmax(1)).double().mean()),
        }
        if self.labels is not None:
            record["accuracy"] = float((predicted.cpu() == self.labels).double().mean())
        return record


def _neurons(network: SpikingNetwork) -> list[Neuron]:
    """All neurons, if they have a membrane potential and a bias."""
    neurons = [settable(network, site, "bias", streaming=True) for site in network.sites]
    for site, neuron in zip(network.sites, neurons, strict=True):
        if not neuron.has_membrane:
            raise CalibrationError(
                f"has {type(neuron).__name__} neurons, without a membrane potential that a bias could be fitted to",
                where=site.name,
                remedy="use this pass with integrate-and-fire neurons, or others derived from MembraneNeuron",
            )
    return neurons


@torch.inference_mode()
def _correct(network: SpikingNetwork, images: Tensor, targets: dict[str, Tensor], alpha: float, updates: int) -> None:
    """One simulation in which every bias is corrected just before its neurons fire."""
    simulation = Simulation(network)
    early = network.begin(in_memory_format(images.to(network.graph.device)))
    for t in range(network.timesteps):
        fire = simulation.advance(1)

        def correct(node: Node, signal: Signal, t: int = t, fire: Any = fire) -> Signal:
            if node.operation == "site":
                neuron: Any = network.neuron(node.name)
                current, state = simulation.before(node, signal)
                potential = neuron.potential(current, state, t, bias=False)

                def spikes(left: Tensor, rows: slice) -> Tensor:
                    return neuron.spikes_at(left, tuple(part[rows] for part in state))

                for _ in range(updates):
                    excess = firing_excess(potential, neuron.bias[t], neuron.amplitude, targets[node.name][t], spikes)
                    neuron.bias[t] += (alpha * excess).to(neuron.bias.dtype)
            return fire(node, signal)

        values = dict(early)
        run(network.graph, network.between, values, correct)


def relative_depths(sites: Sequence[Site]) -> dict[str, float]:
    """For each site, how many sites lie before it on the longest path there, from 0 (none) to 1 (most)."""
    depths: dict[str, int] = {}
    for site in sites:
        depths[site.name] = max((depths[name] + 1 for name in site.previous), default=0)
    deepest = max(depths.values())
    return {name: depth / deepest if deepest else 0.0 for name, depth in depths.items()}


def step_targets(mean: Tensor, ceiling: Tensor, timesteps: int, slope: float) -> Tensor:
    """What every step is to emit on average, [T, C]: rises with t by ``slope``, between 0 and θ, and is right in all.

    Args:
        mean: what they are to emit in all, as a time-mean, [C]; at most the ceiling.
        ceiling: θ, [] or [C].
        timesteps: T.
        slope: the last step emits (1 + slope) times the mean, the first (1 − slope) times; 0 to 1.
    """
    rise = torch.minimum(torch.full_like(mean, slope), torch.where(mean > 0, ceiling / mean - 1, 0.0))
    r = torch.arange(timesteps, dtype=mean.dtype).mul_(2).sub_(timesteps - 1).div_(max(timesteps - 1, 1))
    return mean * (1 + rise * r.unsqueeze(1))


def firing_excess(
    potential: Tensor,
    bias: Tensor,
    threshold: Tensor,
    target: Tensor,
    spikes: Callable[[Tensor, slice], Tensor] | None = None,
) -> Tensor:
    """E[θ k(u − b)] − target of each channel, [C], float64: what a step emits too much on average.

    The spikes are counted, so the result does not depend on the order of images.

    Args:
        potential: u, before the bias, [B, C, ...].
        bias: b, [C].
        threshold: θ, [] or [C]; a channel with θ = ∞ has no excess.
        target: mean activation, [C].
        spikes: k, the spikes that potentials make, given which images of the batch they are of; default: one at θ and
            above.
    """
    dims, channels = potential.dim(), potential.shape[1]
    others = [d for d in range(dims) if d != 1]
    bias, theta = along_channels(bias, dims), along_channels(threshold, dims)
    total = torch.zeros(channels, dtype=torch.float64, device=potential.device)
    # pieces that stay in the cache
    size = max(1, PIECE // potential[0].numel())
    for start in range(0, len(potential), size):
        rows = slice(start, start + size)
        left = potential[rows] - bias
        total += (left.ge_(theta) if spikes is None else spikes(left, rows)).sum(others)
    places = potential.numel() // channels
    amplitude = threshold.double().flatten().expand(channels)
    return torch.where(amplitude.isinf(), 0.0, amplitude * total / places - target)


def _diverged(network: SpikingNetwork) -> str | None:
    """The first site with a bias beyond all thresholds."""
    for site, neuron in zip(network.sites, network.neurons, strict=True):
        bias, amplitude = neuron.get_buffer("bias"), cast(Neuron, neuron).amplitude
        if not bool((bias.abs() <= DIVERGED * amplitude).all()):
            return site.name
    return None
