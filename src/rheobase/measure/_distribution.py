"""Distributions of the analog network's activations and the spiking network's time-means, site by site."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import rel_entr
from scipy.stats import wasserstein_distance
from torch import Tensor

from rheobase.core.checks import check_whole
from rheobase.core.progress import track
from rheobase.core.results import Column, Table
from rheobase.data.batches import Batches
from rheobase.graph.sites import Site
from rheobase.measure._walk import ALPHABET, SiteResult, check_run, method_of, sub_batches
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.response import Alphabet
from rheobase.passes.statistics import magnitude, maxima, observe
from rheobase.signals.signal import Signal


@dataclass(frozen=True)
class Histogram:
    """Histogram of one site's values, over its neurons and all images, in activation units.

    Attributes:
        zero: number of values that are exactly 0.
        counts: number of other values in each bin.
        mean, std: of all values, zeros included.
    """

    zero: int
    counts: tuple[int, ...]
    mean: float
    std: float

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return self.zero / (self.zero + sum(self.counts))

    def shares(self) -> Tensor:
        """Return the fraction of zeros, then that of each bin, float64 [1 + bins]."""
        counts = torch.tensor((self.zero, *self.counts), dtype=torch.float64)
        return counts / counts.sum()


@dataclass(frozen=True)
class SiteDistribution:
    """Distributions of both networks at one site.

    Attributes:
        site: name of the site.
        alphabet: the numbers of spikes that its neurons may emit in one step.
        edges: of the bins, from 0 (of a signed activation: from the negative end) to the largest magnitude of either
            network.
        ann: the analog network's activations.
        snn: the spiking network's time-means, amplitude times firing rate.
        divergence: Jensen-Shannon divergence of the two histograms, with a separate bin for zeros, in bits: from 0
            (equal) to 1 (no common bin). Depends on the bins, because time-means take few values.
        distance: earth mover's distance of the two (Wasserstein-1), in activation units; hardly depends on the bins.
    """

    site: str
    alphabet: Alphabet
    edges: tuple[float, ...]
    ann: Histogram
    snn: Histogram
    divergence: float
    distance: float


@dataclass(frozen=True)
class Distribution(SiteResult):
    """Distributions of every site."""

    rows: tuple[SiteDistribution, ...]

    def table(self) -> Table:
        """One row for each site."""
        columns = (
            Column("site", "site", align="left"),
            ALPHABET,
            Column("mean, ANN", lambda row: row.ann.mean, "{:.3g}"),
            Column("mean, SNN", lambda row: row.snn.mean, "{:.3g}"),
            Column("zeros, ANN", lambda row: row.ann.sparsity, "{:.1f} %", scale=100),
            Column("zeros, SNN", lambda row: row.snn.sparsity, "{:.1f} %", scale=100),
            Column("divergence (bits)", "divergence", "{:.3f}"),
            Column("distance", "distance", "{:.3g}"),
        )
        return Table(columns, self.rows, self.title)


@torch.inference_mode()
def distribution(
    network: SpikingNetwork,
    images: Batches,
    timesteps: int | None = None,
    *,
    bins: int = 50,
    progress: bool = False,
) -> Distribution:
    """Compare analog activations with spiking time-means at every site (DA calibration, Figs. 1, 3 and 4).

    The images are kept in memory. Each histogram has ``bins`` bins; the other arguments and the errors are those of
    :func:`rheobase.diagnose`, but the network runs by its own ``execution``.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.ParallelConversion(timesteps=4), calibration=images)
        >>> len(rb.measure.distribution(snn, images).rows)
        19
    """
    steps = check_run(network, timesteps, by_site=True)
    bins = check_whole(bins, "bins")
    pooled = torch.cat([part.cpu() for part in sub_batches(network, images, steps, "reading")])
    largest = [float(value) for value in maxima(network.ann, pooled, "layer")]

    def rise(site: Site, emitted: Signal) -> None:
        largest[site.index] = max(largest[site.index], float(magnitude(site, emitted.mean()).max()))

    parts = pooled.split(64)
    for part in track(parts, "finding ranges", show=progress):
        network.readouts(part, (steps,), monitor=rise)
    largest = [value if value > 0 else 1.0 for value in largest]
    lowest = [-value if site.lower < 0 else 0.0 for site, value in zip(network.sites, largest, strict=True)]
    tallies = [(_Tally(*ends, bins), _Tally(*ends, bins)) for ends in zip(lowest, largest, strict=True)]
    for part in track(parts, "counting", show=progress):
        observe(network.ann, part, lambda site, activation: tallies[site.index][0].add(activation))
        network.readouts(part, (steps,), monitor=lambda site, e: tallies[site.index][1].add(e.mean().cpu()))
    rows = (_row(site.name, network.neuron(site.name).alphabet, *tallies[site.index]) for site in network.sites)
    return Distribution(tuple(rows), steps, len(pooled), method_of(network))


class _Tally:
    """Counts and moments of one site."""

    def __init__(self, lowest: float, largest: float, bins: int) -> None:
        self.edges = torch.linspace(lowest, largest, bins + 1, dtype=torch.float64)
        self.lowest, self.width = lowest, (largest - lowest) / bins
        self.counts = torch.zeros(bins, dtype=torch.int64)
        self.zero = self.total = 0
        self.sum = self.squares = 0.0

    def add(self, values: Tensor) -> None:
        values = values.flatten().double()
        others = values[values != 0]
        self.zero += len(values) - len(others)
        self.total += len(values)
        self.sum += float(values.sum())
        self.squares += float(values.square().sum())
        bins = len(self.counts)
        self.counts += torch.bincount(((others - self.lowest) / self.width).long().clamp_(0, bins - 1), minlength=bins)

    def result(self) -> Histogram:
        mean = self.sum / self.total
        variance = max(0.0, self.squares / self.total - mean**2)
        return Histogram(self.zero, tuple(self.counts.tolist()), mean, variance**0.5)


def _row(site: str, alphabet: Alphabet, ann: _Tally, snn: _Tally) -> SiteDistribution:
    left, right = ann.result(), snn.result()
    p, q = left.shares().numpy(), right.shares().numpy()
    divergence = sum(rel_entr(x, (p + q) / 2).sum() for x in (p, q)) / (2 * math.log(2))
    values = torch.cat([torch.zeros(1), (ann.edges[1:] + ann.edges[:-1]) / 2]).numpy()
    distance = wasserstein_distance(values, values, p, q)
    edges = tuple(ann.edges.tolist())
    return SiteDistribution(site, alphabet, edges, left, right, max(0.0, float(divergence)), float(distance))
