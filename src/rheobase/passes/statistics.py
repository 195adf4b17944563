"""Statistics of activations that do not depend on the order or the size of the batches.

Each is a running integer count or maximum, not a moving average. Activations are [B, C, ...]; a statistic has one row
per channel, or one row for the whole layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rheobase.core.devices import spread
from rheobase.core.errors import CalibrationError
from rheobase.core.memory import in_pieces
from rheobase.graph import Graph, Node
from rheobase.graph.sites import Site, site_table
from rheobase.signals import along_channels

Granularity = Literal["layer", "channel"]
Observer = Callable[[Site, Tensor], None]
SUB_BATCH = 32


@torch.inference_mode()
def observe(graph: Graph, images: Tensor, observer: Observer) -> None:
    """Run the analog network and pass the activation [B, C, ...] of every site, on the CPU, to the observer.

    Raises:
        CalibrationError: if the current of a site is NaN or infinite, naming the first such site.
    """
    sites = {site.name: site for site in site_table(graph)}

    def activate(node: Node, z: Tensor, overwrite: bool, graph: Graph, tell: Observer) -> Tensor:
        if not bool(torch.isfinite(z).all()):
            raise CalibrationError(
                "receives NaN or infinite values on the calibration images",
                where=node.name,
                remedy="check the weights of the layers before it and the preprocessing",
            )
        activation = graph.activate(node, z)
        tell(sites[node.name], activation.cpu())
        return activation

    def run(graph: Graph, piece: Tensor, tell: Observer | None) -> Tensor:
        assert tell is not None
        return graph.on_means(piece, partial(activate, graph=graph, tell=tell))

    for part in images.split(SUB_BATCH * max(1, len(spread()))):
        in_pieces(run, graph, part.to(graph.device), SUB_BATCH, observer)


def magnitude(site: Site, activation: Tensor) -> Tensor:
    r"""\|a\|: of a signed activation; an activation that is never negative is returned unchanged."""
    return activation.abs() if site.lower < 0 else activation


def rows(activation: Tensor, granularity: Granularity) -> Tensor:
    """[B, C, ...] -> [C, M] (channel) or [1, M] (layer)."""
    if granularity == "layer":
        return activation.reshape(1, -1)
    return activation.movedim(1, 0).reshape(activation.shape[1], -1)


class Histogram:
    """Counts of the activations of each row that are not 0, in equal bins from 0 to the row's maximum.

    If ``signed``, as many bins again hold the negative activations, down to the negative maximum.
    """

    def __init__(self, maximum: Tensor, bins: int = 4096, *, signed: bool = False) -> None:
        self.maximum, self.bins, self.first = maximum, bins, -bins if signed else 0
        self.counts = torch.zeros(len(maximum), bins - self.first, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """``x``: [R, M], none of larger magnitude than the maximum; none negative, unless ``signed``."""
        width = torch.where(self.maximum > 0, self.maximum, 1.0).unsqueeze(1) / self.bins
        index = (x / width).floor_().long().clamp_(self.first, self.bins - 1) - self.first
        index += torch.arange(len(x)).unsqueeze(1) * self.counts.shape[1]
        self.counts += torch.bincount(index[x != 0], minlength=self.counts.numel()).reshape(self.counts.shape)

    def middles(self) -> Tensor:
        """Middle of each bin in units of the row's maximum, [bins], float64."""
        return (torch.arange(self.first, self.bins, dtype=torch.float64) + 0.5) / self.bins


def maxima(graph: Graph, images: Tensor, granularity: Granularity) -> list[Tensor]:
    """Largest magnitude of each site's activation, per channel or layer."""
    found: dict[int, Tensor] = {}

    def add(site: Site, x: Tensor) -> None:
        largest = rows(magnitude(site, x), granularity).amax(1)
        found[site.index] = torch.maximum(found.get(site.index, largest), largest)

    observe(graph, images, add)
    return [found[site] for site in sorted(found)]


def channel_means(graph: Graph, images: Tensor, ceilings: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Mean activation of each site's channels over images and positions, [C], float64.

    Activations are clipped at the ``ceilings`` c of their sites, [] or [C], if given: to [−c, c].
    """
    sites = site_table(graph)
    totals = [torch.zeros(site.channels, dtype=torch.float64) for site in sites]

    def add(site: Site, x: Tensor) -> None:
        if ceilings is not None:
            ceiling = along_channels(ceilings[site.index].cpu(), x.dim())
            x = x.clamp(-ceiling, ceiling)
        totals[site.index] += rows(x, "channel").double().sum(1)

    observe(graph, images, add)
    return [total * site.channels / (len(images) * site.neurons) for total, site in zip(totals, sites, strict=True)]


def neuron_means(graph: Graph, images: Tensor) -> list[Tensor]:
    """Mean activation of each site's neurons over images, [C, ...], float64."""
    totals = [torch.zeros(site.shape, dtype=torch.float64) for site in site_table(graph)]

    def add(site: Site, x: Tensor) -> None:
        totals[site.index] += x.double().sum(0)

    observe(graph, images, add)
    return [total / len(images) for total in totals]


def percentiles(graph: Graph, images: Tensor, granularity: Granularity, percentile: float) -> list[Tensor]:
    """Exact percentile of the magnitude of each site's activation (:func:`exact_percentiles`)."""

    def each(visit: Callable[[int, Tensor], None]) -> None:
        observe(graph, images, lambda site, x: visit(site.index, rows(magnitude(site, x), granularity)))

    return exact_percentiles(
        each, [site.channels if granularity == "channel" else 1 for site in site_table(graph)], percentile
    )


def exact_percentiles(
    each: Callable[[Callable[[int, Tensor], None]], None], sizes: Sequence[int], percentile: float
) -> list[Tensor]:
    """The exact percentile of every row of non-negative float32 values, [R] for each site.

    Non-negative floats sort like their bit patterns. Three rounds over the data fix the pattern's 31 bits from the top
    (11, 10, 10): each counts the values that share the bits fixed so far by their next bits. The result is the
    smallest value v with at least ``percentile`` % of the values <= v (NumPy's ``inverted_cdf``).

    Args:
        each: calls its argument with the index of a site and its values [R, M], for all data in any batches.
        sizes: number of rows R of each site.
        percentile: in percent.
    """
    prefixes = [torch.zeros(size, dtype=torch.int64) for size in sizes]
    ranks: list[Tensor] = []
    for shift, bits in ((20, 11), (10, 10), (0, 10)):
        counts = [torch.zeros(size, 2**bits, dtype=torch.int64) for size in sizes]

        def count(site: int, x: Tensor, shift: int = shift, bits: int = bits, counts: list[Tensor] = counts) -> None:
            pattern = x.float().abs().contiguous().view(torch.int32).long()
            chosen = (pattern >> (shift + bits)) == prefixes[site].unsqueeze(1)
            digit = ((pattern >> shift) & (2**bits - 1)) + torch.arange(len(x)).unsqueeze(1) * 2**bits
            counts[site] += torch.bincount(digit[chosen], minlength=counts[site].numel()).reshape(counts[site].shape)

        each(count)
        # the rank in exact rational arithmetic: rounding of a float product could shift it by one
        millionths = round(percentile * 10_000)
        ranks = ranks or [torch.clamp(-(-found.sum(1) * millionths // 1_000_000), min=1) for found in counts]
        for site, found in enumerate(counts):
            cumulative = found.cumsum(1)
            digit = (cumulative < ranks[site].unsqueeze(1)).sum(1)
            ranks[site] -= (cumulative - found).gather(1, digit.unsqueeze(1)).squeeze(1)
            prefixes[site] = (prefixes[site] << bits) | digit
    return [prefix.to(torch.int32).view(torch.float32) for prefix in prefixes]


def histograms(graph: Graph, images: Tensor, granularity: Granularity, maximum: Sequence[Tensor]) -> list[Histogram]:
    """Histogram of each site's activation up to its largest magnitude over the same images."""
    found = [Histogram(m, signed=site.lower < 0) for site, m in zip(site_table(graph), maximum, strict=True)]
    observe(graph, images, lambda site, x: found[site.index].update(rows(x, granularity)))
    return found
