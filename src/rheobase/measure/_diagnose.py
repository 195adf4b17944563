"""Where the spiking network departs from the analog one: the error of every site, taken apart exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL
from rheobase.core.progress import track
from rheobase.core.results import Column, Result, Table
from rheobase.data.batches import Batches, batches, count
from rheobase.graph.node import Node
from rheobase.graph.sites import Site
from rheobase.network.folding import check_unfolded
from rheobase.network.observe import Observation, analog_values, observe
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons.response import Response
from rheobase.signals.alignment import Alignment

TERMS = ("inherited", "segment", "clipping", "quantisation", "offset", "unevenness")
"""The parts of a site's error, in the order in which they arise."""


@dataclass(frozen=True)
class Term:
    """One part of a site's error e, over its neurons and all images, in activation units.

    Attributes:
        mean: with its sign; the means of all parts add up to that of e.
        size: mean of its absolute value.
        share: mean of the part times the sign of e: how much of |e| is due to it. Negative where it makes up for
            others; the shares of all parts add up to the size of e.
    """

    mean: float
    size: float
    share: float


@dataclass(frozen=True)
class Residual:
    """Potentials after the last step, in units of θ.

    Attributes:
        mean: over neurons and images.
        below: share of neurons × images that end below 0 and have spiked: a spike too many.
        above: share that end above 1 and have not spiked at every step: a spike too few.
    """

    mean: float
    below: float
    above: float


@dataclass(frozen=True)
class SiteDiagnosis:
    """One site.

    Attributes:
        site: its name.
        timesteps: T of the site.
        neurons: for one image.
        activation: mean of the analog network's activation.
        error: e, what the neurons emit on average less the analog activation.
        terms: the parts of e by their names, in the order of ``TERMS``.
        own: e without what is inherited: what this site adds.
        spike_rate: spikes of a neuron in a step, those of either sign.
        saturated: share of neurons × images that emit all they can.
        residual: of the potentials; None for neurons that have none.
        channels: how many.
        dead_channels: channels without a spike on any image.
        dead_in_ann: those of them that are never active in the analog network either.
        saturated_channels: channels in which every neuron emits all it can on every image.
    """

    in_json = ("relative", "relative_own")

    site: str
    timesteps: int
    neurons: int
    activation: float
    error: Term
    terms: dict[str, Term]
    own: Term
    spike_rate: float
    saturated: float
    residual: Residual | None
    channels: int
    dead_channels: tuple[int, ...]
    dead_in_ann: tuple[int, ...]
    saturated_channels: tuple[int, ...]

    @property
    def relative(self) -> float:
        """Size of the error by the mean activation; infinite where nothing is active."""
        return self.error.size / self.activation if self.activation else float("inf") if self.error.size else 0.0

    @property
    def relative_own(self) -> float:
        """The same of what this site adds."""
        return self.own.size / self.activation if self.activation else float("inf") if self.own.size else 0.0


@dataclass(frozen=True)
class Diagnosis(Result):
    """The errors of all sites, in execution order.

    Attributes:
        rows: one for each site.
        timesteps: T the network ran for.
        images: how many.
        method: name of the recipe.
    """

    rows: tuple[SiteDiagnosis, ...]
    timesteps: int
    images: int
    method: str

    @property
    def entry(self) -> SiteDiagnosis:
        """Where most of the error enters: the site with the largest error of its own, relative to its activation."""
        return max(self.rows, key=lambda row: row.relative_own)

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``entry`` is the site's name."""
        return {**super().to_json(), "entry": self.entry.site}

    def table(self) -> Table:
        """A row for each site: its error, and what each part adds to it, by its mean activation."""

        def share(term: str) -> Column:
            return Column(term, lambda row: 100 * row.terms[term].share / (row.activation or 1.0), "{:.1f} %")

        def dead(row: SiteDiagnosis) -> str:
            in_ann = f" ({len(row.dead_in_ann)} in the ANN)" if row.dead_in_ann else ""
            return f"{len(row.dead_channels)}{in_ann}"

        columns = (
            Column("site", "site", align="left"),
            Column("T", "timesteps"),
            Column("error", lambda row: 100 * row.error.size / (row.activation or 1.0), "{:.1f} %"),
            *map(share, TERMS),
            Column("spike rate", "spike_rate", "{:.4f}"),
            Column("too many", lambda row: row.residual and row.residual.below, "{:.1f} %", scale=100),
            Column("too few", lambda row: row.residual and row.residual.above, "{:.1f} %", scale=100),
            Column("dead", dead),
            Column("saturated", lambda row: len(row.saturated_channels)),
        )
        title = f"{self.method}, T = {self.timesteps}, {self.images} images: error in % of the mean activation"
        return Table(columns, self.rows, title)

    def summary(self) -> str:
        """In a sentence."""
        worst, last = self.entry, self.rows[-1]
        if worst.own.size == 0:
            return "No site departs from the analog network."
        cause = max(TERMS[1:], key=lambda name: worst.terms[name].size)
        return (
            f"Most error enters at {worst.site}: {100 * worst.relative_own:.1f} % of its mean activation, "
            f"{cause} above all; at the last site the error is {100 * last.relative:.1f} %."
        )


@torch.no_grad()
def diagnose(
    network: SpikingNetwork, images: Batches, *, timesteps: int | None = None, progress: bool = False
) -> Diagnosis:
    r"""Take the error of every site apart, neuron by neuron, against the analog network on the same images.

    What a neuron emits on average is :math:`\bar o = (A/T)\,N`, with N spikes, net, of amplitude A (θ for most) in T
    steps. Its error :math:`e = \bar o - a` from the analog activation a = f(z_a) is the sum of

    .. math::
        \begin{aligned}
        \text{inherited} &= f(z') - f(z_a) \\
        \text{segment} &= f(z) - f(z') \\
        \text{clipping} &= c - f(z), & c &= \min(f(z), \tfrac{A}{T} n) \\
        \text{quantisation} &= q - c, & q &= \tfrac{A}{T} \, \mathrm{clip}(Q(\tfrac{T}{A} z), 0, n) \\
        \text{offset} &= \tfrac{A}{T} M - q \\
        \text{unevenness} &= \tfrac{A}{T} (N - M)
        \end{aligned}

    - *inherited*: z' is what the analog network's weights make of the means that the sites before emitted; so this is
      the errors before, as the activation passes them on.
    - *segment*: z is the time-mean of what really arrives. It differs from z' where a calibration has changed weights,
      where max-pooling let other trains through than that of the largest mean, where a train of another T was cut short
      or stretched (:class:`rheobase.signals.Alignment`), and by rounding.
    - *clipping*: no neuron emits more than its capacity n in T steps (T where it emits at most one spike a step).
    - *quantisation*: nor anything but a multiple of A/T. q is the nearest one (of z clipped where f saturates), the
      best that T steps can do; if f is quantised itself, the one that its own rounding Q gives with T levels.
    - *offset*: M is the number of spikes under the same current spread evenly. It differs from that one by what the
      initial potential and biases change: a V0 that does not belong to Q, and corrections that a calibration has made.
    - *unevenness*: what comes of the spikes' timing (QVM, Eq. 5; :func:`rheobase.measure.unevenness` has its size
    alone).

    Every part is a difference of two neighbours in the chain a, f(z'), f(z), c, q, (A/T) M, ō, so they add up exactly.
    A silent channel (θ = ∞) has A = 0: all of it is clipping. For networks trained with T = L levels, clipping,
    quantisation and offset are zero; all that is left is unevenness and what comes of it.

    Bu et al. 2022 (section 3) name clipping, quantisation and unevenness.

    Args:
        network: a converted network; always simulated, whatever its ``execution``.
        images: a tensor [N, ...] or batches.
        timesteps: T; default the one it was converted for.
        progress: show a progress bar with the time left.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        RecipeError: if the network cannot run for so many steps, or its thresholds are folded into its weights, so that
            its sites are not in the analog network's units.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> first = rb.diagnose(snn, images).rows[0]
        >>> first.terms["inherited"].size, first.terms["unevenness"].size  # the first site sees the image, evenly
        (0.0, 0.0)
    """
    check_converted(network)
    steps = network.timesteps if timesteps is None else timesteps
    network.check_timesteps(steps)
    check_unfolded(network)
    sums = [_Sums(site) for site in network.sites]
    changed = _changes_segments(network)
    seen = 0
    for batch, _ in track(batches(images, where="images"), "diagnosing", show=progress, total=count(images)):
        for piece in network.check_images(batch).split(network.piece_size(steps)):
            arrived, activation = analog_values(network, piece)
            found: dict[str, Observation] = {}

            def see(observation: Observation, found: dict[str, Observation] = found) -> None:
                found[observation.site.name] = observation

            observe(network, piece, steps, see)
            if changed:
                emitted = {name: o.spikes.net * (o.amplitude / o.steps) for name, o in found.items()}

                def emit(node: Node, a: Tensor, emitted: dict[str, Tensor] = emitted) -> Tensor:
                    return emitted[node.name].to(a.dtype)

                arrived, _ = analog_values(network, piece, emit)
            for node in network.ann.sites:
                site = found[node.name].site.index
                current = found[node.name].current
                passed = network.ann.activate(node, current.clone())
                expected = network.ann.activate(node, arrived[node.name].clone()) if changed else passed
                nearest = _nearest(sums[site].site, current, found[node.name])
                sums[site].add(found[node.name], activation[node.name], expected, passed, nearest)
        seen += len(batch)
    rows = tuple(total.row(network.steps_of(total.site.name, steps), seen) for total in sums)
    return Diagnosis(rows, steps, seen, str(network.recipe.get("name", "")))


def _nearest(site: Site, current: Tensor, found: Observation) -> Tensor:
    """q: the current rounded to what T steps can emit."""
    spiking = found.amplitude > 0
    lower, upper = found.neuron.capacity(found.steps)
    gain = torch.where(spiking, found.steps / torch.where(spiking, found.amplitude, 1.0), 0.0)
    unit = found.amplitude / found.steps
    offset, strict = INITIAL_POTENTIAL[site.rounding], site.rounding == "ceil"
    return Response(gain, offset, max(lower, 0), upper, unit, strict).mean(current.clamp(0.0, site.upper))


def _changes_segments(network: SpikingNetwork) -> bool:
    """Whether what arrives at a site can be anything but the analog network's weights of what was emitted."""
    graph, ann = network.graph, network.ann
    if any(node.operation == "max_pool" for node in graph.nodes) or network.alignment != Alignment():
        return True
    if graph.nodes != ann.nodes:
        return True
    return any(not torch.equal(graph.tensor(name), ann.tensor(name)) for name in graph.tensor_names)


class _Sums:
    """Over all neurons of a site and the images so far, in float64."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.parts = {name: [0.0, 0.0, 0.0] for name in ("error", "own", *TERMS)}
        self.activation = self.spikes = 0.0
        self.saturated = self.below = self.above = 0
        self.residual = 0.0
        self.has_residual = True
        self.fired = self.active = torch.zeros(site.channels, dtype=torch.bool)
        self.full = torch.ones(site.channels, dtype=torch.bool)

    def add(self, found: Observation, activation: Tensor, expected: Tensor, passed: Tensor, nearest: Tensor) -> None:
        """What a site did; a, f(z'), f(z) and q, [B, C, ...]."""
        # in the activation's own arithmetic, so that equal levels are equal numbers
        level = found.amplitude / found.steps
        lower, upper = found.neuron.capacity(found.steps)
        even, emitted = (counts.net.to(level.dtype) * level for counts in (found.even, found.spikes))
        clipped = passed.minimum(level * upper).maximum(level * lower)
        chain = [x.double() for x in (activation, expected, passed, clipped, nearest, even, emitted)]
        a = chain[0]
        error = chain[-1] - a
        sign = error.sign()
        parts = dict(zip(TERMS, (after - before for before, after in pairwise(chain)), strict=True))
        for name, part in {"error": error, "own": error - parts["inherited"], **parts}.items():
            sums = self.parts[name]
            for i, value in enumerate((part, part.abs(), part * sign)):
                sums[i] += float(value.sum())
        self.activation += float(a.sum())
        self.spikes += float(found.spikes.magnitude.sum())
        full = found.spikes.net >= upper
        self.saturated += int(full.sum())
        self.fired = self.fired | _channels(found.spikes.events > 0).any(1).cpu()
        self.active = self.active | _channels(a > 0).any(1).cpu()
        self.full = self.full & _channels(full).all(1).cpu()
        residual = found.neuron.residual(found.current, found.spikes.net, found.steps)
        if residual is None:
            self.has_residual = False
            return
        self.residual += float(residual.sum())
        # a margin for rounding: the potential is what came in less what went out, and that was summed in float32
        self.below += int(((residual < -1e-4) & (found.spikes.net > lower)).sum())
        self.above += int(((residual > 1 + 1e-4) & ~full).sum())

    def row(self, timesteps: int, images: int) -> SiteDiagnosis:
        places = self.site.neurons * images
        terms = {name: Term(*(value / places for value in sums)) for name, sums in self.parts.items()}
        dead = ~self.fired
        return SiteDiagnosis(
            self.site.name,
            timesteps,
            self.site.neurons,
            self.activation / places,
            terms.pop("error"),
            {name: terms[name] for name in TERMS},
            terms["own"],
            self.spikes / (places * timesteps),
            self.saturated / places,
            Residual(self.residual / places, self.below / places, self.above / places) if self.has_residual else None,
            self.site.channels,
            _indices(dead),
            _indices(dead & ~self.active),
            _indices(self.full),
        )


def _channels(values: Tensor) -> Tensor:
    return values.movedim(1, 0).flatten(1)


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())
