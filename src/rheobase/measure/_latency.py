"""How many time-steps pass before the readout can answer: neurons that stream, and barriers that wait."""

from __future__ import annotations

from dataclasses import dataclass

from rheobase.core.results import Column, Result, Table
from rheobase.graph.sites import split_at_sites
from rheobase.network.spiking_network import SpikingNetwork, check_converted


@dataclass(frozen=True)
class SiteLatency:
    """When a site's neurons emit. Steps are counted from 1, the step in which the image is presented.

    Attributes:
        site: its name.
        timesteps: T of the site.
        start: step in which its first output step leaves.
        end: step in which its last one leaves, start + T − 1.
        barrier: whether it has to wait for the end of a train before it.
        internal: steps that its neurons work on without input before they emit (PASCAL's stage 2); not in ``start``.
        stall: steps it stands idle for each image in a pipeline, interval − T.
    """

    site: str
    timesteps: int
    start: int
    end: int
    barrier: bool
    internal: int
    stall: int


@dataclass(frozen=True)
class Latency(Result):
    """Latency of a network for one image, and of a pipeline of images, in time-steps.

    Attributes:
        rows: one for each site, in execution order.
        first: step after which the readout can give its first answer, from one step of what it reads.
        final: step after which it gives the final one.
        streaming: what ``final`` would be if every neuron streamed: the longest T.
        critical_path: the sites, and the max-pool gates that wait, that ``final`` hangs on, from input to readout.
        internal: steps on that path, and not in ``final``, that neurons work on without input.
        interval: steps between two images in a pipeline where each site is a core of its own: the longest T.
        stalls: steps that the sites stand idle for each image, all together.
        timesteps: T the network runs for.
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
        """A row for each site."""
        columns = (
            Column("site", "site", align="left"),
            Column("T", "timesteps"),
            Column("start", "start"),
            Column("end", "end"),
            Column("waits", lambda row: "yes" if row.barrier else "", align="left"),
            Column("stall", "stall"),
        )
        return Table(columns, self.rows, f"{self.method}, T = {self.timesteps}: latency in time-steps")

    def summary(self) -> str:
        """In a few sentences."""
        text = f"First answer after step {self.first}, final answer after step {self.final}"
        text += f" ({self.streaming} if every neuron streamed)."
        text += f" It hangs on {' → '.join(self.critical_path)}."
        if self.internal:
            text += f" Neurons on the critical path work for {self.internal} further steps without input."
        text += f" In a pipeline an image every {self.interval} steps; sites stall for {self.stalls} steps an image."
        return text


def latency(network: SpikingNetwork, timesteps: int | None = None) -> Latency:
    r"""When a network can answer, on hardware where spikes travel on as soon as they are there.

    Affine operations take no time. A neuron that streams passes step t on in the step in which step t of its input
    arrives. One that waits for its whole input is a *barrier*: it emits its T steps after the last step of everything
    that feeds it,

    .. math::
        \mathrm{start}_l = 1 + \max_{k \to l} \mathrm{end}_k, \qquad \mathrm{end}_l = \mathrm{start}_l + T_l - 1

    so that a chain of them takes the sum of their T. The image is there from step 1 on and its mean is known at once.
    A neuron that streams waits too for every train that has another T than itself: it is aligned first, and whole (QAC,
    section 7.7). So does a max-pool gate in a network that does not stream as a whole: it lets the winner's train
    through after the window.

    The papers count T. They do not count barriers, and PASCAL's stage 2 (Algorithm 1), max(L', L) − 1 steps without
    input at every site that spikes feed, is only in its energy model: here it is ``internal``.

    **Pipeline** (QAC, section 7.7 and Fig. 4): each site is a core that works on image n while the next works on image
    n − 1. A new image can enter every max T_l steps, and site l stands idle for max T − T_l of them.

    Args:
        network: a converted network.
        timesteps: T; default the one it was converted for.

    Raises:
        RecipeError: if the network cannot run for so many steps.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=torch.rand(4, 3, 32, 32))
        >>> found = rb.latency(snn)
        >>> found.first, found.final  # all its neurons stream
        (1, 4)
    """
    check_converted(network)
    steps = network.timesteps if timesteps is None else timesteps
    network.check_timesteps(steps)
    times = Timetable(network, steps)
    own = {site.name: network.steps_of(site.name, steps) for site in network.sites}
    interval = max(own.values())
    rows = tuple(
        SiteLatency(
            site.name,
            own[site.name],
            times.fired[site.name].start,
            times.fired[site.name].end,
            times.waits(site.name),
            times.fired[site.name].internal,
            interval - own[site.name],
        )
        for site in network.sites
    )
    _, _, readout = split_at_sites(network.graph)
    late = {node.name for node in readout}
    read = {name for node in readout for name in node.inputs} - late or {network.graph.output}
    arriving = [timing for name in sorted(read) for timing in times.arriving[name].values()]
    last = max(arriving, key=lambda t: (t.end, len(t.path)))
    return Latency(
        rows,
        max(timing.start for timing in arriving),
        last.end,
        interval,
        last.path,
        sum(times.fired[name].internal for name in last.path),
        interval,
        sum(row.stall for row in rows),
        steps,
        str(network.recipe.get("name", "")),
    )


@dataclass(frozen=True)
class Timing:
    """When a signal is there.

    Attributes:
        start: step in which its first step arrives; for a held value, from which on it is known.
        steps: T of a train; None for a held value.
        path: the sites (and gates that wait) that it hangs on, from the input on.
        internal: of a site: steps that its neurons work on without input.
    """

    start: int
    steps: int | None = None
    path: tuple[str, ...] = ()
    internal: int = 0

    @property
    def end(self) -> int:
        """The last step of a train; of a held value the step before ``start``, when the last of it came."""
        return self.start - 1 + (self.steps or 0)


class Timetable:
    """When everything in a network is there, for a run of ``timesteps`` steps.

    Attributes:
        fired: when each site, and each max-pool gate that waits, emits.
        arriving: node -> what its value is made of: the sites (or gates) whose trains reach it by affine operations,
            or the input.
    """

    def __init__(self, network: SpikingNetwork, timesteps: int) -> None:
        self.network, self.timesteps = network, timesteps
        self.fired: dict[str, Timing] = {}
        self.arriving: dict[str, dict[str, Timing]] = {}
        for node in network.graph.nodes:
            parts = {source: t for name in node.inputs for source, t in self.arriving[name].items()}
            if node.operation == "site":
                self.fired[node.name] = self._fire(node.name, list(parts.values()))
                parts = {node.name: self.fired[node.name]}
            elif node.operation == "max_pool" and not network.streams:
                latest = max(parts.values(), key=lambda t: (t.end, len(t.path)))
                path = (*latest.path, node.name)
                self.fired[node.name] = Timing(latest.end + 1, self.steps(node.inputs[0]), path)
                parts = {node.name: self.fired[node.name]}
            self.arriving[node.name] = parts or {node.name: Timing(1)}

    def _fire(self, site: str, parts: list[Timing]) -> Timing:
        steps = self.network.steps_of(site, self.timesteps)
        # when each part can be used: as it comes, or when the last of it has come
        waits = self.network.waits(site)
        usable = [(t.end + 1 if waits or t.steps != steps else t.start, len(t.path), t.path) for t in parts]
        start, _, path = max(usable)
        before = {t.steps for t in parts}
        internal = self.network.internal_steps(site, before.pop() if len(before) == 1 else None, steps)
        return Timing(start, steps, (*path, site), internal)

    def steps(self, node: str) -> int | None:
        """T of the train at a node; None for a held value, which trains of different T have become between neurons that
        wait. Others have the longest."""
        found = {t.steps for t in self.arriving[node].values() if t.steps is not None}
        if len(found) > 1 and all(self.network.waits(site.name) for site in self.network.sites):
            return None
        return max(found, default=None)

    def waits(self, site: str) -> bool:
        """Whether a site emits later than the one it hangs on (the first: than the image is there)."""
        *before, _ = self.fired[site].path
        return self.fired[site].start > (self.fired[before[-1]].start if before else 1)
