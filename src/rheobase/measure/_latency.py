"""Number of time-steps until the readout has its logits, with streaming neurons and barriers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rheobase.core.results import Column, Result, Table
from rheobase.graph.sites import split_at_sites
from rheobase.measure._walk import ALPHABET, check_run, method_of
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.response import Alphabet


@dataclass(frozen=True)
class SiteLatency:
    """Time-steps at which a site emits, counted from 1, the step in which the image is presented.

    Attributes:
        site: name of the site.
        timesteps: T of the site.
        start: time-step of its first output step.
        end: time-step of its last output step, start + T − 1.
        barrier: True if it waits for the end of a spike train before it.
        internal: steps without input before its neurons emit (PASCAL's stage 2); not in ``start``.
        stall: idle steps per image in a pipeline, interval − T.
        alphabet: the numbers of spikes that its neurons may emit in one step.
    """

    site: str
    timesteps: int
    start: int
    end: int
    barrier: bool
    internal: int
    stall: int
    alphabet: Alphabet


@dataclass(frozen=True)
class Latency(Result):
    """Latency of a network for one image, and of a pipeline of images, in time-steps.

    Attributes:
        rows: one for each site, in execution order.
        first: time-step after which the readout has logits of one step of its input.
        final: time-step after which the readout has the final logits.
        streaming: ``final`` if every neuron streamed: the largest T.
        critical_path: sites and waiting max-pool gates that determine ``final``, from input to readout.
        internal: steps without input on the critical path; not in ``final``.
        interval: steps between two images in a pipeline with one core per site: the largest T.
        stalls: idle steps of all sites per image.
        timesteps: T of the run.
        method: name of the recipe.
    """

    rows: tuple[SiteLatency, ...]
    first: int
    final: int
    streaming: int
    critical_path: tuple[str, ...]
    internal: int
    interval: int
    stalls: int
    timesteps: int
    method: str

    def table(self) -> Table:
        """One row for each site."""
        columns = (
            Column("site", "site", align="left"),
            Column("T", "timesteps"),
            ALPHABET,
            Column("start", "start"),
            Column("end", "end"),
            Column("waits", lambda row: "yes" if row.barrier else "", align="left"),
            Column("stall", "stall"),
        )
        return Table(columns, self.rows, f"{self.method}, T = {self.timesteps}: latency in time-steps")

    def summary(self) -> str:
        """First and final latency, critical path and pipeline interval."""
        internal = f" Neurons on the critical path take {self.internal} further steps without input."
        return (
            f"First logits after step {self.first}, final logits after step {self.final} "
            f"({self.streaming} if every neuron streamed). Critical path: {' → '.join(self.critical_path)}."
            f"{internal if self.internal else ''}"
            f" Pipeline: one image every {self.interval} steps; sites stall for {self.stalls} steps per image."
        )


def latency(network: SpikingNetwork, timesteps: int | None = None) -> Latency:
    r"""Compute the number of time-steps until the logits, on hardware that passes spikes on without delay.

    Affine operations take no time. A streaming neuron emits step t in the time-step in which step t of its input
    arrives. A waiting neuron is a *barrier*: it emits its T steps after the last step of all its inputs,

    .. math::
        \mathrm{start}_l = 1 + \max_{k \to l} \mathrm{end}_k, \qquad \mathrm{end}_l = \mathrm{start}_l + T_l - 1

    so that a chain of barriers takes the sum of their T. The image is present from step 1 on and its mean is known at
    once. A streaming neuron also waits for a spike train of another T, because alignment needs the whole spike train
    (QAC, section 7.7). So does a max-pool gate in a network with waiting neurons: it passes the winner's spike train
    after the last step.

    The papers count T. They do not count barriers, and PASCAL's stage 2 (Algorithm 1), max(L', L) − 1 steps without
    input at every site that reads spikes, is only in its energy model; here it is ``internal``. The phases of a
    protocol are counted: a site first collects its input, then runs every phase, and emits in the last one.

    **Pipeline** (QAC, section 7.7 and Fig. 4): each site is a core that processes image n while the next one processes
    image n − 1. A new image can enter every max T_l steps, and site l is idle for max T − T_l of them.

    Args:
        network: a converted network.
        timesteps: T; default that of the conversion.

    Raises:
        RecipeError: if the network cannot run for T steps.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=torch.rand(4, 3, 32, 32))
        >>> found = rb.latency(snn)
        >>> found.first, found.final  # all its neurons stream
        (1, 4)
    """
    steps = check_run(network, timesteps)
    times = Timetable(network, steps)
    interval = max(network.steps_of(site.name, steps) for site in network.sites)
    rows = []
    for site in network.sites:
        own, fired = network.steps_of(site.name, steps), times.fired[site.name]
        row = SiteLatency(
            site=site.name,
            timesteps=own,
            start=fired.start,
            end=fired.end,
            barrier=times.waits(site.name),
            internal=fired.internal,
            stall=interval - own,
            alphabet=network.neuron(site.name).alphabet,
        )
        rows.append(row)
    _, _, readout = split_at_sites(network.graph)
    late = {node.name for node in readout}
    read = {name for node in readout for name in node.inputs} - late or {network.graph.output}
    arriving = [timing for name in sorted(read) for timing in times.arriving[name].values()]
    last = _last(arriving)
    return Latency(
        rows=tuple(rows),
        first=max(timing.start for timing in arriving),
        final=last.end,
        streaming=interval,
        critical_path=last.path,
        internal=sum(times.fired[name].internal for name in last.path),
        interval=interval,
        stalls=sum(row.stall for row in rows),
        timesteps=steps,
        method=method_of(network),
    )


@dataclass(frozen=True)
class Timing:
    """Arrival time of a signal.

    Attributes:
        start: time-step of its first step; for a constant, the time-step from which it is known.
        steps: T of a spike train or time series; None for a constant.
        path: sites and waiting gates that determine the time, from the input on.
        internal: of a site: steps without input before it emits.
    """

    start: int
    steps: int | None = None
    path: tuple[str, ...] = ()
    internal: int = 0

    @property
    def end(self) -> int:
        """Time-step of the last step; for a constant the step before ``start``, when its source ended."""
        return self.start - 1 + (self.steps or 0)


def _last(timings: Iterable[Timing]) -> Timing:
    """The last to end; of several the one with the longest path."""
    return max(timings, key=lambda t: (t.end, len(t.path)))


class Timetable:
    """Arrival times of all signals in a network, for a run of ``timesteps`` steps.

    Attributes:
        fired: timing of the output of each site and each waiting max-pool gate.
        arriving: node -> timing of its sources: the sites (or gates) whose spike trains reach it by affine operations,
            or the input.
    """

    def __init__(self, network: SpikingNetwork, timesteps: int) -> None:
        self.network, self.timesteps = network, timesteps
        self.fired: dict[str, Timing] = {}
        self.arriving: dict[str, dict[str, Timing]] = {}
        for node in network.graph.nodes:
            sources = {source: t for name in node.inputs for source, t in self.arriving[name].items()}
            if node.operation == "site":
                self.fired[node.name] = self._fire(node.name, list(sources.values()))
                sources = {node.name: self.fired[node.name]}
            elif node.operation == "max_pool" and not network.streams:
                last = _last(sources.values())
                self.fired[node.name] = Timing(last.end + 1, self.steps(node.inputs[0]), (*last.path, node.name))
                sources = {node.name: self.fired[node.name]}
            self.arriving[node.name] = sources or {node.name: Timing(1)}

    def _fire(self, site: str, sources: list[Timing]) -> Timing:
        steps = self.network.steps_of(site, self.timesteps)
        # a source is usable from its first step on, or only after its last one
        waits = self.network.waits(site)
        usable = [(t.end + 1 if waits or t.steps != steps else t.start, len(t.path), t.path) for t in sources]
        start, _, path = max(usable)
        before = {t.steps for t in sources}
        internal = self.network.internal_steps(site, before.pop() if len(before) == 1 else None, steps)
        if self.network.protocol is not None:  # phases before the last
            return Timing(start + internal, steps, (*path, site))
        return Timing(start, steps, (*path, site), internal)

    def steps(self, node: str) -> int | None:
        """Return T of the spike train at a node; None for a constant.

        Sources of different T give a constant if all neurons wait, else the largest T.
        """
        found = {t.steps for t in self.arriving[node].values() if t.steps is not None}
        if len(found) > 1 and all(self.network.waits(site.name) for site in self.network.sites):
            return None
        return max(found, default=None)

    def waits(self, site: str) -> bool:
        """True if a site starts later than the site before it on its path (the first site: later than step 1)."""
        *before, _ = self.fired[site].path
        return self.fired[site].start > (self.fired[before[-1]].start if before else 1)
