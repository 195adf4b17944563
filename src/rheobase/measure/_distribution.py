"""Distributions of the analog network's activations and the spiking network's time-means, site by site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.checks import check_whole
from rheobase.core.errors import DataError
from rheobase.core.progress import track
from rheobase.core.results import Column, Result, Table
from rheobase.data.batches import Batches, batches
from rheobase.graph.sites import Site
from rheobase.network.folding import check_unfolded
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.passes.statistics import maxima, observe
from rheobase.signals.signal import Signal


@dataclass(frozen=True)
class Histogram:
    """Histogram of one site's values, over its neurons and all images, in activation units.

    Attributes:
        zero: number of values that are exactly 0.
        counts: number of other values in each bin.
        mean: of all values, zeros included.
        std: of all values, zeros included.
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
        edges: of the bins, from 0 to the largest value of either network.
        ann: the analog network's activations.
        snn: the spiking network's time-means, amplitude times firing rate.
        divergence: Jensen-Shannon divergence of the two histograms, with a separate bin for zeros, in bits: from 0
            (equal) to 1 (no common bin). Depends on the bins, because time-means take few values.
        distance: earth mover's distance of the two (Wasserstein-1), in activation units; hardly depends on the bins.
    """

    site: str
    edges: tuple[float, ...]
    ann: Histogram
    snn: Histogram
    divergence: float
    distance: float


@dataclass(frozen=True)
class Distribution(Result):
    """Distributions of every site, in execution order.

    Attributes:
        rows: one for each site.
        timesteps: T of the run.
        images: number of images.
        method: name of the recipe.
    """

    rows: tuple[SiteDistribution, ...]
    timesteps: int
    images: int
    method: str

    def table(self) -> Table:
        """One row for each site."""
        columns = (
            Column("site", "site", align="left"),
            Column("mean, ANN", lambda row: row.ann.mean, "{:.3g}"),
            Column("mean, SNN", lambda row: row.snn.mean, "{:.3g}"),
            Column("zeros, ANN", lambda row: row.ann.sparsity, "{:.1f} %", scale=100),
            Column("zeros, SNN", lambda row: row.snn.sparsity, "{:.1f} %", scale=100),
            Column("divergence (bits)", "divergence", "{:.3f}"),
            Column("distance", "distance", "{:.3g}"),
        )
        return Table(columns, self.rows, f"{self.method}, T = {self.timesteps}, {self.images} images")


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

    Args:
        network: a converted network.
        images: a tensor [N, ...] or batches; kept in memory.
        timesteps: T; default that of the conversion.
        bins: number of bins of each histogram.
        progress: show a progress bar with the time left.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        RecipeError: if the network cannot run for T steps, or its thresholds are folded into its weights.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.ParallelConversion(timesteps=4), calibration=images)
        >>> len(rb.measure.distribution(snn, images).rows)
        19
    """
    check_converted(network)
    check_unfolded(network)
    bins = check_whole(bins, "bins")
    steps = network.timesteps if timesteps is None else timesteps
    network.check_timesteps(steps)
    data = [network.check_images(batch).cpu() for batch, _ in batches(images, where="images")]
    shapes = {tuple(batch.shape[1:]) for batch in data}
    if len(shapes) > 1:
        raise DataError("have different shapes", where="images", remedy="resize or crop all images to one size")
    pooled = torch.cat(data)
    largest = [float(value) for value in maxima(network.ann, pooled, "layer")]

    def rise(site: Site, emitted: Signal) -> None:
        largest[site.index] = max(largest[site.index], float(emitted.mean().max()))

    sub_batches = pooled.split(64)
    for sub_batch in track(sub_batches, "finding ranges", show=progress):
        network.readouts(sub_batch, (steps,), monitor=rise)
    ann = [_Tally(value, bins) for value in largest]
    snn = [_Tally(value, bins) for value in largest]
    for sub_batch in track(sub_batches, "counting", show=progress):
        network.readouts(sub_batch, (steps,), monitor=lambda site, emitted: snn[site.index].add(emitted.mean().cpu()))
        observe(network.ann, sub_batch, lambda site, activation: ann[site.index].add(activation))
    rows = tuple(
        _row(site.name, ann[site.index].result(), snn[site.index].result(), largest[site.index], bins)
        for site in network.sites
    )
    return Distribution(rows, steps, len(pooled), str(network.recipe.get("name", "")))


class _Tally:
    """Counts and moments of one site."""

    def __init__(self, largest: float, bins: int) -> None:
        self.width = (largest if largest > 0 else 1.0) / bins
        self.counts = torch.zeros(bins, dtype=torch.int64)
        self.zero = self.total = 0
        self.sum = self.squares = 0.0

    def add(self, values: Tensor) -> None:
        values = values.flatten().double()
        positive = values[values != 0]
        self.zero += len(values) - len(positive)
        self.total += len(values)
        self.sum += float(values.sum())
        self.squares += float(values.square().sum())
        bins = len(self.counts)
        self.counts += torch.bincount((positive / self.width).long().clamp_(0, bins - 1), minlength=bins)

    def result(self) -> Histogram:
        mean = self.sum / self.total
        variance = max(0.0, self.squares / self.total - mean**2)
        return Histogram(self.zero, tuple(self.counts.tolist()), mean, variance**0.5)


def _row(name: str, ann: Histogram, snn: Histogram, largest: float, bins: int) -> SiteDistribution:
    edges = torch.linspace(0, largest if largest > 0 else 1.0, bins + 1, dtype=torch.float64)
    p, q = ann.shares(), snn.shares()
    middle = (p + q) / 2
    divergence = 0.5 * sum(float(torch.special.xlogy(x, x / middle).nan_to_num().sum()) for x in (p, q))
    centres = torch.cat([torch.zeros(1, dtype=torch.float64), (edges[1:] + edges[:-1]) / 2])
    gaps = (p.cumsum(0) - q.cumsum(0)).abs()[:-1] * centres.diff()
    bits = max(0.0, divergence / torch.log(torch.tensor(2.0, dtype=torch.float64)).item())
    return SiteDistribution(name, tuple(edges.tolist()), ann, snn, bits, float(gaps.sum()))
