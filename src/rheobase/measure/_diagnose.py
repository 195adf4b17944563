"""The error of every site, decomposed exactly into its causes."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rheobase.activations.activation import INITIAL_POTENTIAL
from rheobase.core.results import Column, Table
from rheobase.data.batches import Batches
from rheobase.graph.sites import Site
from rheobase.measure._walk import ALPHABET, SiteResult, check_run, method_of, sub_batches
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.observe import Observation, analog_values, currents, observe
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.response import Alphabet, Response
from rheobase.signals.alignment import Alignment

TERMS = ("inherited", "segment", "rounding", "clipping", "quantisation", "offset", "unevenness")
"""The terms of a site's error, in the order of the chain in :func:`diagnose`."""


@dataclass(frozen=True)
class Term:
    """One term of a site's error e, over its neurons and all images, in activation units.

    Attributes:
        mean: signed mean; the means of all terms add up to the mean of e.
        size: mean absolute value.
        share: mean of term · sign(e), the contribution to |e|. Negative if the term compensates others; the shares of
            all terms add up to the size of e.
    """

    mean: float
    size: float
    share: float


@dataclass(frozen=True)
class Residual:
    """Residual membrane potentials after the last step, in units of θ.

    Attributes:
        mean: over neurons and images.
        below: fraction of neurons × images that end below 0 and have spiked: too many spikes.
        above: fraction that end above 1 and are not saturated: too few spikes.
    """

    mean: float
    below: float
    above: float


@dataclass(frozen=True)
class SiteDiagnosis:
    """The error of one site.

    Attributes:
        site, timesteps, neurons: name, T and number of neurons of the site.
        alphabet: the numbers of spikes that its neurons may emit in one step.
        activation: mean magnitude of the analog network's activation.
        error: e, time-mean of the output minus the analog activation.
        terms: the terms of e by name, in the order of ``TERMS``.
        own: e without the inherited term: the error that this site adds.
        spike_rate: spikes per neuron and step, of either sign.
        saturated: fraction of neurons × images that emit their capacity, of either sign.
        residual: residual potentials; None for neurons without a membrane potential.
        channels: number of channels.
        dead_channels: channels without a spike on any image.
        dead_in_ann: dead channels that are never active in the analog network either.
        saturated_channels: channels in which every neuron emits its capacity on every image.
    """

    in_json = ("relative", "relative_own")

    site: str
    timesteps: int
    neurons: int
    alphabet: Alphabet
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
        """Size of the error relative to the mean activation; infinite if the mean activation is 0."""
        return self._relative(self.error)

    @property
    def relative_own(self) -> float:
        """Size of the error that this site adds, relative to the mean activation."""
        return self._relative(self.own)

    @property
    def cause(self) -> str:
        """The largest term of the error that this site adds."""
        return max(list(self.terms)[1:], key=lambda name: self.terms[name].size)

    def _relative(self, term: Term) -> float:
        return term.size / self.activation if self.activation else float("inf") if term.size else 0.0

    def percent(self, value: float) -> float:
        """The value in per cent of the mean activation; of 1 if that is 0."""
        return 100 * value / (self.activation or 1.0)


@dataclass(frozen=True)
class Diagnosis(SiteResult):
    """The errors of all sites."""

    rows: tuple[SiteDiagnosis, ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms; rounding is one for networks on whole numbers."""
        return tuple(self.rows[0].terms)

    @property
    def entry(self) -> SiteDiagnosis:
        """The site that adds the largest error, relative to its mean activation."""
        return max(self.rows, key=lambda row: row.relative_own)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; ``entry`` is the site's name."""
        return {**super().to_json(), "entry": self.entry.site}

    def table(self) -> Table:
        """One row for each site: its error and the share of each term, relative to the mean activation."""

        def share(term: str) -> Column:
            return Column(term, lambda row: row.percent(row.terms[term].share), "{:.1f} %")

        def dead(row: SiteDiagnosis) -> str:
            in_ann = f" ({len(row.dead_in_ann)} in the ANN)" if row.dead_in_ann else ""
            return f"{len(row.dead_channels)}{in_ann}"

        columns = (
            Column("site", "site", align="left"),
            Column("T", "timesteps"),
            ALPHABET,
            Column("error", lambda row: row.percent(row.error.size), "{:.1f} %"),
            *map(share, self.terms),
            Column("spike rate", "spike_rate", "{:.4f}"),
            Column("too many", lambda row: row.residual and row.residual.below, "{:.1f} %", scale=100),
            Column("too few", lambda row: row.residual and row.residual.above, "{:.1f} %", scale=100),
            Column("dead", dead),
            Column("saturated", lambda row: len(row.saturated_channels)),
        )
        return Table(columns, self.rows, f"{self.title}: error in % of the mean activation")

    def summary(self) -> str:
        """The site that adds the largest error, its main cause, and the error of the last site."""
        worst, last = self.entry, self.rows[-1]
        if worst.own.size == 0:
            return "No site differs from the analog network."
        return (
            f"Largest added error at {worst.site}: {100 * worst.relative_own:.1f} % of its mean activation, "
            f"mainly {worst.cause}. Error at the last site: {100 * last.relative:.1f} %."
        )


@torch.no_grad()
def diagnose(
    network: SpikingNetwork, images: Batches, *, timesteps: int | None = None, progress: bool = False
) -> Diagnosis:
    r"""Decompose the error of every site, neuron by neuron, against the analog network on the same images.

    The time-mean of a neuron's output is :math:`\bar o = (A/T)\,N`, with N spikes (net count) of amplitude A (θ for
    most neurons) in T steps. Its error :math:`e = \bar o - a` against the analog activation a = f(z_a) is the sum of

    .. math::
        \begin{aligned}
        \text{inherited} &= f(z') - f(z_a) \\
        \text{segment} &= f(z'') - f(z') \\
        \text{rounding} &= f(z) - f(z'') \\
        \text{clipping} &= c - f(z), & c &= \min(f(z), \tfrac{A}{T} n) \\
        \text{quantisation} &= q - c, & q &= \tfrac{A}{T} \, \mathrm{clip}(Q(\tfrac{T}{A} z), 0, n) \\
        \text{offset} &= \tfrac{A}{T} M - q \\
        \text{unevenness} &= \tfrac{A}{T} (N - M)
        \end{aligned}

    - *inherited*: z' is the current that the analog network's weights compute from the time-means of the sites before.
      This term is the error of those sites, as the activation passes it on.
    - *segment*: z is the time-mean of the current that arrives. It differs from z' where calibration has changed
      weights, where max-pooling passed another spike train than that of the largest mean, where a spike train of
      another T was truncated or extended (:class:`rheobase.signals.Alignment`), and by floating-point rounding. In a
      network on whole numbers it holds the rounding of the pixels, and biases of neurons that are now the layers'.
    - *rounding*: z'' is z without the rounding of weights and biases to whole numbers (:func:`rheobase.integers`); 0
      for other networks.
    - *clipping*: a neuron emits at most its capacity n in T steps (n = T for at most one spike per step).
    - *quantisation*: a time-mean is a multiple of A/T. q is the nearest multiple (of z clipped where f saturates), the
      best value in T steps; if f is quantised itself, the multiple given by its own rounding Q with T levels.
    - *offset*: M is the number of spikes for a constant current of the same sum. (A/T) M differs from q by the effect
      of initial potential and biases: a V0 that does not match Q, and corrections made by calibration.
    - *unevenness*: the effect of the spikes' timing (QVM, Eq. 5; :func:`rheobase.measure.unevenness` measures only its
      size).

    Each term is the difference of two neighbours in the chain a, f(z'), f(z''), f(z), c, q, (A/T) M, ō, so the terms
    add up exactly. A silent channel (θ = ∞) has A = 0: its whole error is clipping. For networks trained with T = L
    levels, clipping, quantisation and offset are zero; only unevenness and its propagation remain.

    Bu et al. 2022 (section 3) name clipping, quantisation and unevenness.

    Args:
        network: a converted network; always simulated, for any ``execution``.
        images: a tensor [N, ...] or batches.
        timesteps: T; default that of the conversion.
        progress: show a progress bar with the time left.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        RecipeError: if the network cannot run for T steps, or its thresholds are folded into its weights (its sites
            then have other units than the analog network's).

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> first = rb.diagnose(snn, images).rows[0]
        >>> first.terms["inherited"].size, first.terms["unevenness"].size  # the image is constant over time
        (0.0, 0.0)
    """
    steps = check_run(network, timesteps, by_site=True)
    sums = [_Sums(site) for site in network.sites]
    nodes = {node.name: node for node in network.ann.sites}
    changed = _changes_segments(network)
    seen = 0
    for sub_batch in sub_batches(network, images, steps, "diagnosing", progress=progress):
        seen += len(sub_batch)
        activation = analog_values(network.ann, sub_batch)
        found: list[Observation] = []
        observe(network, sub_batch, steps, found.append)
        arrived = currents(network.ann, sub_batch, {o.site.name: o.emitted for o in found}) if changed else {}
        rounded = _lost_to_rounding(network, sub_batch, found)
        for o in found:
            name = o.site.name
            activate = functools.partial(network.ann.activate, nodes[name])
            passed = activate(o.z.to(activation[name].dtype).clone())
            exact = activate((o.z - rounded[name]).to(passed.dtype)) if name in rounded else passed
            expected = activate(arrived[name]) if changed else exact
            sums[o.site.index].add(o, activation[name], expected, exact, passed, _nearest(o))
    rows = tuple(total.row(network, steps, seen) for total in sums)
    return Diagnosis(rows, steps, seen, method_of(network))


def _lost_to_rounding(network: SpikingNetwork, images: Tensor, found: list[Observation]) -> dict[str, Tensor]:
    """z − z'' of every site of a network on whole numbers, [B, C, ...]: the current of the weights' rounding errors.

    From the time-means of the spikes, of which both currents are sums.
    """
    if not isinstance(network, IntegerNetwork):
        return {}
    spikes = {o.site.name: o.spikes.net / o.steps for o in found}
    pixels = network.pixels(images)
    whole, exact = (currents(graph, pixels, spikes) for graph in (network.graph, network.unrounded))
    return {o.site.name: (whole[o.site.name] - exact[o.site.name]) * o.unit for o in found}


def _nearest(found: Observation) -> Tensor:
    """q: the current rounded to a time-mean that T steps can represent."""
    site, spiking = found.site, found.spike > 0
    lower, upper = found.neuron.capacity(found.steps)
    gain = torch.where(spiking, found.steps / torch.where(spiking, found.spike, 1.0), 0.0)
    offset, strict = INITIAL_POTENTIAL[site.rounding], site.rounding == "ceil"
    lower = lower if site.lower < 0 else max(lower, 0)
    response = Response(gain, offset, lower, upper, found.spike / found.steps, strict)
    return response.mean(found.z.clamp(site.lower, site.upper))


def _changes_segments(network: SpikingNetwork) -> bool:
    """True if the current of a site can differ from the analog network's weights applied to the emitted time-means."""
    graph, ann = network.graph, network.ann
    return (
        graph.nodes != ann.nodes
        or any(node.operation == "max_pool" for node in graph.nodes)
        or network.alignment != Alignment()
        or any(not torch.equal(graph.tensor(name), ann.tensor(name)) for name in graph.tensor_names)
    )


class _Sums:
    """Sums over all neurons of a site and the images so far, in float64."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.parts = {name: [0.0, 0.0, 0.0] for name in ("error", "own", *TERMS)}
        self.totals: dict[str, float] = defaultdict(float)
        self.has_residual = True
        self.fired = self.active = torch.zeros(site.channels, dtype=torch.bool)
        self.full = torch.ones(site.channels, dtype=torch.bool)

    def add(self, found: Observation, activation: Tensor, *chain: Tensor) -> None:
        """Add an observation, with a, f(z'), f(z''), f(z) and q, each [B, C, ...]."""
        *before, passed, nearest = chain
        # in the dtype of the activation, so that equal levels are equal numbers
        level = found.spike / found.steps
        lower, upper = found.neuron.capacity(found.steps)
        clipped = passed.minimum(level * upper).maximum(level * lower)
        constant = found.constant.net.to(level.dtype) * level
        values = [x.double() for x in (activation, *before, passed, clipped, nearest, constant, found.emitted)]
        error = values[-1] - values[0]
        sign = error.sign()
        parts = dict(zip(TERMS, (after - before for before, after in pairwise(values)), strict=True))
        for name, part in {"error": error, "own": error - parts["inherited"], **parts}.items():
            for i, value in enumerate((part, part.abs(), part * sign)):
                self.parts[name][i] += float(value.sum())
        net = found.spikes.net
        full = net >= upper
        if self.site.lower < 0:
            full |= net <= lower
        means = {"activation": values[0].abs(), "spikes": found.spikes.magnitude, "saturated": full}
        residual = found.neuron.residual(found.current, net, found.steps)
        if residual is not None:
            # a margin for rounding: the potential is a difference of sums in float32
            below, above = (residual < -1e-4) & (net > lower), (residual > 1 + 1e-4) & ~full
            means |= {"residual": residual, "below": below, "above": above}
        self.has_residual = residual is not None
        for name, value in means.items():
            self.totals[name] += float(value.sum())
        self.fired = self.fired | _channels(found.spikes.events > 0).any(1).cpu()
        self.active = self.active | _channels(values[0] != 0).any(1).cpu()
        self.full = self.full & _channels(full).all(1).cpu()

    def row(self, network: SpikingNetwork, steps: int, images: int) -> SiteDiagnosis:
        timesteps = network.steps_of(self.site.name, steps)
        places = self.site.neurons * images
        terms = {name: Term(*(value / places for value in sums)) for name, sums in self.parts.items()}
        if not isinstance(network, IntegerNetwork):
            del terms["rounding"]
        means = {name: total / places for name, total in self.totals.items()}
        dead = ~self.fired
        return SiteDiagnosis(
            site=self.site.name,
            timesteps=timesteps,
            neurons=self.site.neurons,
            alphabet=network.neuron(self.site.name).alphabet,
            activation=means["activation"],
            error=terms.pop("error"),
            own=terms.pop("own"),
            terms=terms,
            spike_rate=self.totals["spikes"] / (places * timesteps),
            saturated=means["saturated"],
            residual=Residual(means["residual"], means["below"], means["above"]) if self.has_residual else None,
            channels=self.site.channels,
            dead_channels=_indices(dead),
            dead_in_ann=_indices(dead & ~self.active),
            saturated_channels=_indices(self.full),
        )


def _channels(values: Tensor) -> Tensor:
    return values.movedim(1, 0).flatten(1)


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())
