"""Statistics of activations that do not depend on the order or the size of the batches.

Each is a running integer count or maximum, not a moving average. Activations are [B, C, ...]; a statistic has one row
per channel, or one row for the whole layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.sites import Site, site_table
from rheobase.signals.signal import Constant, Signal, along_channels

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
    plan = schedule(graph.nodes[1:], keep={graph.output})

    def visit(node: Node, signal: Signal) -> Signal:
        result = graph.analog(node, signal)
        if node.operation == "site":
            if not bool(torch.isfinite(signal.values).all()):
                raise CalibrationError(
                    "receives NaN or infinite values on the calibration images",
                    where=node.name,
                    remedy="check the weights of the layers before it and the preprocessing",
                )
            observer(sites[node.name], result.mean().cpu())
        return result

    for sub_batch in images.split(SUB_BATCH):
        values: dict[str, Signal] = {graph.nodes[0].name: Constant(in_memory_format(sub_batch.to(graph.device)))}
        run(graph, plan, values, visit)


def rows(activation: Tensor, granularity: Granularity) -> Tensor:
    """[B, C, ...] -> [C, M] (channel) or [1, M] (layer)."""
    if granularity == "layer":
        return activation.reshape(1, -1)
    return activation.movedim(1, 0).reshape(activation.shape[1], -1)


class RunningMax:
    """Largest activation of each row."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """``x``: [R, M]."""
        largest = x.amax(1)
        self.value = largest if self.value is None else torch.maximum(self.value, largest)


class Histogram:
    """Counts of the positive activations of each row in equal bins from 0 to the row's maximum."""

    def __init__(self, maximum: Tensor, bins: int = 4096) -> None:
        self.maximum, self.bins = maximum, bins
        self.counts = torch.zeros(len(maximum), bins, dtype=torch.int64)
        self.total = 0

    def update(self, x: Tensor) -> None:
        """``x``: [R, M], none above the maximum."""
        self.total += x.shape[1]
        width = torch.where(self.maximum > 0, self.maximum, 1.0).unsqueeze(1) / self.bins
        index = (x / width).long().clamp_(0, self.bins - 1)
        index += torch.arange(len(x)).unsqueeze(1) * self.bins
        self.counts += torch.bincount(index[x > 0], minlength=self.counts.numel()).reshape(self.counts.shape)

    def middles(self) -> Tensor:
        """Middle of each bin in units of the maximum, [bins], float64."""
        return (torch.arange(self.bins, dtype=torch.float64) + 0.5) / self.bins

    def centres(self) -> Tensor:
        """Middle of each bin, [R, bins], float64."""
        return self.maximum.double().unsqueeze(1) * self.middles()


class ExactPercentile:
    """The exact percentile of non-negative float32 values, from counts of their bits.

    Non-negative floats sort like their bit patterns. Three rounds over the data fix the pattern's 31 bits from the top
    (11, 10, 10): each counts the values that share the bits fixed so far by their next bits. The result is the
    smallest value v with at least ``percentile`` % of the values <= v (NumPy's ``inverted_cdf``).
    """

    ROUNDS = ((20, 11), (10, 10), (0, 10))

    def __init__(self, rows: int, percentile: float) -> None:
        self.percentile = percentile
        self.prefix = torch.zeros(rows, dtype=torch.int64)
        self.rank: Tensor | None = None
        self.round = 0
        self._start()

    def _start(self) -> None:
        _, bits = self.ROUNDS[self.round]
        self.counts = torch.zeros(len(self.prefix), 2**bits, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """``x``: [R, M], non-negative. Call it on all data once in each round."""
        shift, bits = self.ROUNDS[self.round]
        pattern = x.float().abs().contiguous().view(torch.int32).long()
        chosen = (pattern >> (shift + bits)) == self.prefix.unsqueeze(1)
        digit = (pattern >> shift) & (2**bits - 1)
        digit += torch.arange(len(x)).unsqueeze(1) * 2**bits
        self.counts += torch.bincount(digit[chosen], minlength=self.counts.numel()).reshape(self.counts.shape)

    def finish_round(self) -> bool:
        """Fix the next bits; True if all bits are fixed."""
        _, bits = self.ROUNDS[self.round]
        if self.rank is None:
            total = self.counts.sum(1)
            # exact rational arithmetic: rounding of a float product could shift the rank by one
            millionths = round(self.percentile * 10_000)
            self.rank = torch.clamp(-(-total * millionths // 1_000_000), min=1)
        cumulative = self.counts.cumsum(1)
        digit = (cumulative < self.rank.unsqueeze(1)).sum(1)
        below = torch.where(digit > 0, cumulative.gather(1, (digit - 1).clamp(min=0).unsqueeze(1)).squeeze(1), 0)
        self.rank = self.rank - below
        self.prefix = (self.prefix << bits) | digit
        self.round += 1
        if self.round == len(self.ROUNDS):
            return True
        self._start()
        return False

    def value(self) -> Tensor:
        """The percentile of each row, float32."""
        return self.prefix.to(torch.int32).view(torch.float32)


def maxima(graph: Graph, images: Tensor, granularity: Granularity) -> list[Tensor]:
    """Largest activation of each site, per channel or layer."""
    found = [RunningMax() for _ in graph.sites]
    observe(graph, images, lambda site, x: found[site.index].update(rows(x, granularity)))
    return [_known(statistic.value) for statistic in found]


def channel_means(graph: Graph, images: Tensor, ceilings: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Mean activation of each site's channels over images and positions, [C], float64.

    Args:
        graph: the analog network.
        images: [N, ...].
        ceilings: clip the activations of each site at this value, [] or [C].
    """
    sites = site_table(graph)
    totals = [torch.zeros(site.channels, dtype=torch.float64) for site in sites]

    def add(site: Site, x: Tensor) -> None:
        if ceilings is not None:
            x = torch.minimum(x, along_channels(ceilings[site.index].cpu(), x.dim()))
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
    """Exact percentile of each site's activation."""
    sizes = [site.channels if granularity == "channel" else 1 for site in site_table(graph)]
    found = [ExactPercentile(size, percentile) for size in sizes]
    done = False
    while not done:
        observe(graph, images, lambda site, x: found[site.index].update(rows(x, granularity)))
        finished = [statistic.finish_round() for statistic in found]
        done = all(finished)
    return [statistic.value() for statistic in found]


def histograms(graph: Graph, images: Tensor, granularity: Granularity, maximum: Sequence[Tensor]) -> list[Histogram]:
    """Histogram of each site's activation up to its maximum over the same images."""
    found = [Histogram(m) for m in maximum]
    observe(graph, images, lambda site, x: found[site.index].update(rows(x, granularity)))
    return found


def _known(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
