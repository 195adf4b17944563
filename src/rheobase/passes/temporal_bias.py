"""Forward temporal bias correction (FTBC)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.data import CalibrationData
from rheobase.graph import Node
from rheobase.graph.interpreter import run
from rheobase.graph.operations import in_memory_format
from rheobase.graph.sites import Site
from rheobase.network import Simulation, SpikingNetwork
from rheobase.neurons import Neuron, State
from rheobase.neurons.response import finite_amplitude
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.held_out import Best, Snapshot, logit_error
from rheobase.passes.statistics import channel_means
from rheobase.signals import Signal, along_channels

RAMPS = (0.0, 1.0)
"""Values of γ among which ``ramp=None`` chooses."""
DIVERGED = 100.0
"""A bias larger than this, in units of θ, counts as divergence."""
SUB_BATCH = 2**17
"""Number of potentials whose spikes are counted at once: fits into the cache, and float32 counts it exactly."""


class TemporalBias(CalibrationPass):
    r"""Fit a bias for every channel and step such that the mean output of each step matches the ANN's activation.

    Wu et al. 2024, Algorithm 1. At every site and step, with u the potential before firing,

    .. math::
        b[t] \leftarrow b[t] + \alpha \, \big( E[\theta\,k(u[t] - b[t])] - E[\min(a, m\theta)] \big)

    where E is the mean over the images of a batch and the channel's positions, k the number of spikes that the neuron
    fires at a potential and m the maximum number in a step. The update is repeated ``updates`` times with the same u;
    the step is then computed with the new b[t], and its output is passed to the next step. When all batches have
    corrected a bias, the output with the final b[t] is passed to the next layer. A bias depends only on earlier sites
    and steps, so all are corrected in *one* simulation of the calibration images, step by step, with the memory of one
    step. The best iteration on held-out images is kept, which may be the original.

    By default all batches are pooled into one, so their order and size have no effect, and ``updates`` lets a bias
    converge before later steps and layers use it. The paper's scheme is one update for each batch, batch after batch
    (Algorithm 1, lines 9-13), to the end: ``pooled=False, updates=1, patience=None``, and Table 6's ``alpha=0.2,
    iterations=10, batch_size=128, batches=2`` (ResNet-20, CIFAR-10).

    Differs from the paper in both: b is *subtracted* from the potential (Eq. 4 adds b, which line 3 defines as SNN −
    ANN; this diverges), and the target is clipped at mθ, the largest output of a step, and for a signed activation also
    at −mθ.

    With ``ramp`` γ > 0 (not in the paper), deeper sites fire later, because in its first steps a deep layer has
    received little but noise. The total output is unchanged, but the target of step t of T (from 0) is

    .. math:: E[\min(a, \theta)] \, (1 + g \, r_t), \qquad r_t = \frac{2t - (T - 1)}{T - 1}, \qquad
        g = \min\Big(\gamma \, \frac{d}{D}, \; \frac{\theta}{E[\min(a, \theta)]} - 1\Big)

    for a site with d sites before it on the longest path, and D the largest d. It helps where T leaves time to wait.
    With ``ramp=None``, one iteration with γ = 0 and one with γ = 1 are compared by the logit error on held-out images
    (on the fitted ones if none are held out), and the better γ is used.

    Args:
        alpha: α > 0, step size of the correction.
        ramp: γ, 0 to 1; None: 0 or 1, chosen on held-out images.
        updates: number of corrections of a bias by a batch each time its step is reached.
        iterations: maximum number of passes over all steps.
        batch_size: images in a batch.
        batches: number of batches.
        pooled: correct by all batches at once; else by one batch after the other.
        patience: stop after this number of iterations without improvement; None: never.
        longest: largest T for which biases are corrected, where they do not pay for more; None: any.

    Raises:
        CalibrationError: if the images are fewer than one batch (not ``pooled``), or the neurons have no bias or
            membrane potential.
    """

    kind: Literal["temporal_bias"] = "temporal_bias"
    alpha: float = Field(default=0.5, gt=0)
    ramp: float | None = Field(default=0, ge=0, le=1)
    updates: int = Field(default=20, ge=1)
    iterations: int = Field(default=2, ge=1)
    batch_size: int = Field(default=128, ge=1)
    batches: int = Field(default=2, ge=1)
    pooled: bool = True
    patience: int | None = Field(default=3, ge=1)
    longest: int | None = Field(default=None, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``bias`` [T, C] of every neuron; ``history`` has a record for each iteration, 0 for the original."""
        changes = Changes()
        if self.longest is not None and network.timesteps > self.longest:
            changes.notes.append(f"no biases: T = {network.timesteps} is more than {self.longest}")
            return changes
        neurons = [_neuron(network, site) for site in network.sites]
        if not network.streams:
            raise CalibrationError(
                "has sites that run for different numbers of steps or wait for their whole input; this pass simulates "
                "all sites step by step",
                where="network",
                remedy="give all sites the same T and streaming neurons, or use a layer-by-layer pass such as "
                "BiasCorrection",
            )
        images = self._images(data, changes)
        for site, neuron in zip(network.sites, neurons, strict=True):
            zeros = torch.zeros(network.timesteps, site.channels, device=neuron.amplitude.device)
            present = cast("Tensor | None", neuron.bias)
            neuron.set(bias=zeros if present is None else zeros + present)
        batches = [images] if self.pooled else list(images.split(self.batch_size))
        goals = _Goals(network, batches)
        changes.notes += [f"{name}: no activity on the calibration images" for name in goals.inactive]
        best = Best(network, data, "iteration")
        targets, logits = self._begin(network, goals, best, changes)
        for iteration in track(range(1, self.iterations + 1), "correcting biases", show=progress):
            if iteration > 1:
                _correct(network, batches, targets, self.alpha, self.updates)
                logits = best.logits()
            diverged = _diverged(network)
            if diverged is not None:
                changes.notes.append(
                    f"stopped in iteration {iteration}: the biases of {diverged} diverge; iteration {best.round} kept. "
                    "Remedy: use a smaller alpha"
                )
                break
            without_gain = best.judge(logits)
            if self.patience is not None and without_gain >= self.patience:
                break
        return best.conclude(changes)

    def _begin(
        self, network: SpikingNetwork, goals: _Goals, best: Best, changes: Changes
    ) -> tuple[dict[str, list[Tensor]], Tensor | None]:
        """The first iteration, with the γ that has the smaller logit error after it.

        Returns the targets of this γ, and the logits of the held-out images (:meth:`Best.logits`).
        """
        ramps = RAMPS if self.ramp is None and network.timesteps > 1 else (self.ramp or 0.0,)
        found = {}
        for ramp in ramps:
            best.original.restore(network)
            _correct(network, goals.batches, goals.targets(ramp), self.alpha, self.updates)
            logits = best.logits()
            if len(ramps) == 1:
                return goals.targets(ramp), logits
            error = logit_error(network, torch.cat(goals.batches)) if logits is None else best.error_of(logits)
            found[ramp] = error, logits, Snapshot(network)
        chosen = min(found, key=lambda ramp: found[ramp][0])
        _, logits, state = found[chosen]
        state.restore(network)
        errors = ", ".join(f"{error:.3g} with {ramp:g}" for ramp, (error, *_) in found.items())
        changes.notes.append(f"ramp {chosen:g} chosen: squared logit error after one iteration {errors}")
        return goals.targets(chosen), logits

    def _images(self, data: CalibrationData, changes: Changes) -> Tensor:
        wanted, available = self.batch_size * self.batches, len(data.fit)
        if available < self.batch_size and not self.pooled:
            raise CalibrationError(
                f"has {available} images to fit on ({len(data.held_out)} are held out), fewer than one batch of "
                f"{self.batch_size}",
                where="calibration data",
                remedy=f"give at least {-(-self.batch_size * 5 // 4)} images, or set batch_size to at most {available}",
            )
        if available < wanted:
            changes.notes.append(f"{available} images for {self.batches} batches of {self.batch_size}: all used")
        return data.fit[:wanted]


def _neuron(network: SpikingNetwork, site: Site) -> Neuron:
    neuron = settable(network, site, "bias", streaming=True)
    if not neuron.has_membrane:
        raise CalibrationError(
            f"has {type(neuron).__name__} neurons, which have no membrane potential",
            where=site.name,
            remedy="use this pass with integrate-and-fire neurons, or others derived from MembraneNeuron",
        )
    return neuron


class _Goals:
    """What each site is to emit on average on each batch.

    Attributes:
        batches: the images.
        inactive: names of sites without activity on any batch.
    """

    def __init__(self, network: SpikingNetwork, batches: list[Tensor]) -> None:
        self.network, self.batches = network, batches
        self.depths = relative_depths(network.sites)
        neurons = [network.neuron(site.name) for site in network.sites]
        ceilings = [finite_amplitude(neuron.amplitude) * neuron.alphabet.most for neuron in neurons]
        self.ceilings = [ceiling.double().cpu() for ceiling in ceilings]
        self.means = [channel_means(network.ann, batch, ceilings) for batch in batches]
        active = (any(bool(means[site.index].any()) for means in self.means) for site in network.sites)
        self.inactive = [site.name for site, found in zip(network.sites, active, strict=True) if not found]

    def targets(self, ramp: float) -> dict[str, list[Tensor]]:
        """Target of the mean output of every step, [T, C], for each batch, by site name."""
        return {
            site.name: [
                step_targets(
                    means[site.index], self.ceilings[site.index], self.network.timesteps, ramp * self.depths[site.name]
                ).to(self.network.graph.device)
                for means in self.means
            ]
            for site in self.network.sites
        }


@torch.inference_mode()
def _correct(
    network: SpikingNetwork, batches: list[Tensor], targets: dict[str, list[Tensor]], alpha: float, updates: int
) -> None:
    """Simulate once, and correct every bias just before its neurons fire.

    Each batch meets the bias that the batch before it has left, also in the potentials of its earlier steps
    (``trials``), while the output that goes to the next layer comes from the final biases of all batches.
    """
    simulation, trials = Simulation(network), dict[str, list[State]]()
    early = network.begin(in_memory_format(torch.cat(batches).to(network.graph.device)))
    sizes = [len(batch) for batch in batches]
    for t in range(network.timesteps):
        fire = simulation.advance(1)

        def correct(node: Node, *signals: Signal, t: int = t, fire: Any = fire) -> Signal:
            if node.operation == "site":
                neuron: Any = network.neuron(node.name)
                current, state = simulation.before(node, *signals)
                started = list(zip(*(part.split(sizes) for part in state), strict=True))
                before = trials.get(node.name, started) if len(batches) > 1 else started
                after = []
                for part, trial, goal in zip(current.split(sizes), before, targets[node.name], strict=True):
                    potential = neuron.potential(part, trial, t, bias=False)

                    def spikes(left: Tensor, rows: slice, trial: State = trial) -> Tensor:
                        return neuron.spikes_at(left, tuple(x[rows] for x in trial))

                    at_once = None if neuron.fires_at_threshold else spikes  # a comparison in place takes a third
                    for _ in range(updates):
                        excess = firing_excess(potential, neuron.bias[t], neuron.amplitude, goal[t], at_once)
                        neuron.bias[t] += (alpha * excess).to(neuron.bias.dtype)
                    if len(batches) > 1:
                        after.append(neuron.step(part, trial, t)[1])
                trials[node.name] = after
            return fire(node, *signals)

        values = dict(early)
        run(network.graph, network.between, values, correct)


def relative_depths(sites: Sequence[Site]) -> dict[str, float]:
    """d/D of each site: number of sites before it on the longest path, divided by the largest such number."""
    depths: dict[str, int] = {}
    for site in sites:
        depths[site.name] = max((depths[name] + 1 for name in site.previous), default=0)
    deepest = max(depths.values())
    return {name: depth / deepest if deepest else 0.0 for name, depth in depths.items()}


def step_targets(mean: Tensor, ceiling: Tensor, timesteps: int, slope: float) -> Tensor:
    """Target of the mean output of every step, [T, C]: rises linearly with t, with time-mean ``mean`` [C].

    From (1 − slope) times the mean at the first step to (1 + slope) times at the last; the slope is reduced where the
    magnitude of the target would exceed ``ceiling`` [] or [C], the largest output of a step.
    """
    rise = torch.minimum(torch.full_like(mean, slope), torch.where(mean != 0, ceiling / mean.abs() - 1, 0.0))
    r = torch.arange(timesteps, dtype=mean.dtype).mul_(2).sub_(timesteps - 1).div_(max(timesteps - 1, 1))
    return mean * (1 + rise * r.unsqueeze(1))


def firing_excess(
    potential: Tensor,
    bias: Tensor,
    threshold: Tensor,
    target: Tensor,
    spikes: Callable[[Tensor, slice], Tensor] | None = None,
) -> Tensor:
    """Mean output of a step minus its target, E[θ k(u − b)] − target, of each channel, [C], float64.

    Spikes are counted as integers, so the result does not depend on the order of images.

    Args:
        potential: u, before the bias, [B, C, ...].
        bias: b, [C].
        threshold: θ, [] or [C]; a channel with θ = ∞ has no excess.
        target: target of the mean output, [C].
        spikes: k, the number of spikes at given potentials of given images of the batch; default: one at θ and above.
    """
    dims, channels = potential.dim(), potential.shape[1]
    bias, theta = along_channels(bias, dims), along_channels(threshold, dims)
    total = torch.zeros(channels, dtype=torch.float64, device=potential.device)
    least = least_firing(bias, theta) if spikes is None and potential.dtype == torch.float32 else None
    # sub-batches that fit into the cache, counted in one buffer
    size = max(1, SUB_BATCH // potential[0].numel())
    buffer = torch.empty_like(potential[:size])
    for start in range(0, len(potential), size):
        rows = slice(start, start + size)
        part, left = potential[rows], buffer[: len(potential) - start]
        if least is not None:
            counted = torch.ge(part, least, out=left)
        else:
            torch.sub(part, bias, out=left)
            counted = left.ge_(theta) if spikes is None else spikes(left, rows)
        total += counted.sum([0, *range(2, dims)])
    positions = potential.numel() // channels
    amplitude = threshold.double().flatten().expand(channels)
    return torch.where(amplitude.isinf(), 0.0, amplitude * total / positions - target)


def least_firing(bias: Tensor, threshold: Tensor) -> Tensor:
    """The smallest float32 u for which u − b, rounded to float32, is at least θ: one comparison in place of two steps.

    The difference is rounded to the nearest float32, so it reaches θ from the middle m between θ and the number below
    it; at m itself only if the last bit of θ is 0. The sum b + m is exact in float64, unless one is 2^28 times the
    other.
    """
    below = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
    middle = bias.double() + (threshold.double() + below.double()) / 2
    least = middle.float()
    even = threshold.view(torch.int32) % 2 == 0
    reached = torch.where(even, least.double() >= middle, least.double() > middle)
    return torch.where(reached, least, torch.nextafter(least, torch.full_like(least, torch.inf)))


def _diverged(network: SpikingNetwork) -> str | None:
    """Name of the first site with a diverged bias, or None."""
    for site, neuron in zip(network.sites, network.neurons, strict=True):
        bias, amplitude = neuron.get_buffer("bias"), cast(Neuron, neuron).amplitude
        if not bool((bias.abs() <= DIVERGED * amplitude).all()):
            return site.name
    return None
