"""PASCAL's adaptive levels: levels by site from the AL metric (Ramesh & Srinivasan 2025, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import kmeans1d
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rheobase.activations.activation import check_levels
from rheobase.core.checks import check_choice, check_fraction, check_whole
from rheobase.core.errors import ModelError, RecipeError, TrainingError
from rheobase.core.folders import user_path
from rheobase.core.results import Column, Result, Table, plain_values
from rheobase.core.seeds import check_seed, derive
from rheobase.data import Batches, sample
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.data.sources import OnDisk, Part, read
from rheobase.graph import Graph, fold_batch_norm
from rheobase.graph.sites import Site, site_table
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods._convert import quantise, traced
from rheobase.methods.neuron_part import trained
from rheobase.methods.qvm import QVM
from rheobase.network.checks import check_input
from rheobase.passes.statistics import observe
from rheobase.signals import along_channels
from rheobase.training import Epoch, Trained, Training, train
from rheobase.training.checks import split_data

UNIFORM, ADAPTED = "uniform", "adapted"
"""Folders of the stages."""
SHARE = 2 / 3
"""p of Algorithm 4: fraction of the epochs in the first stage."""
Moments = Literal["activations", "counts"]
_AT_ONCE = 100


@dataclass(frozen=True)
class SiteMetric:
    """The AL metric of a site and its factors.

    Attributes:
        site: name of the site.
        histogram: number of activations at level 0, ..., L.
        agreement: A.
        skewness: g; infinite if all activations are equal.
        kurtosis: K; infinite if all activations are equal.
        metric: M; the larger, the fewer levels the site needs.
    """

    site: str
    histogram: tuple[int, ...]
    agreement: float
    skewness: float
    kurtosis: float
    metric: float


@dataclass(frozen=True)
class LevelMetric(Result):
    """The AL metric of every site of a network.

    Attributes:
        sites: metric of each site, in execution order.
        alpha: α, the minimum fraction of the activations in a bin that counts as filled; None: 1/(L + 1) at each site.
        moments: the data of skewness and kurtosis.
        images: number of images that it was measured on.
    """

    in_json = ("notes",)

    sites: tuple[SiteMetric, ...]
    alpha: float | None
    moments: Moments
    images: int

    @property
    def values(self) -> dict[str, float]:
        """M by site name."""
        return {found.site: found.metric for found in self.sites}

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for each site whose activation is constant."""
        notes = []
        for found in self.sites:
            filled = [level for level, count in enumerate(found.histogram) if count]
            if len(filled) == 1:
                which = f"always at level {filled[0]}" if filled[0] else "never active"
                notes.append(f"{found.site}: {which} on these images; one level is enough")
        return tuple(notes)

    def at(self, alpha: float) -> LevelMetric:
        """The metric for another α, from 0 to 1, from the same histograms."""
        check_fraction(alpha, "alpha")
        sites = tuple(site_metric(found.site, found.histogram, alpha, self.moments) for found in self.sites)
        return replace(self, sites=sites, alpha=alpha)

    def sweep(self, factors: Sequence[float] = (1.0, 0.75, 0.5)) -> dict[str, LevelMetric]:
        """The metric for α = k / number of sites, by ``"k = 0.5"`` (PASCAL, Fig. 3)."""
        return {f"k = {factor:g}": self.at(factor / len(self.sites)) for factor in factors}

    def assign(self, levels: Sequence[int]) -> dict[str, int]:
        """L of every site, for ``rb.Pascal(levels=...)``, by optimal 1-D k-means on M with one cluster per level.

        The cluster with the smallest M gets the first and highest L.

        Raises:
            RecipeError: if the levels do not descend, or the metric has fewer distinct values than there are levels.

        Example:
            >>> one = [SiteMetric(name, (), 0.0, 0.0, 0.0, m) for name, m in zip("abc", (9.0, 1.0, 2.0))]
            >>> LevelMetric(tuple(one), 0.1, "activations", 1).assign((8, 4))
            {'a': 4, 'b': 8, 'c': 8}
        """
        check_falling(levels)
        found = clusters(list(self.values.values()), len(levels))
        return {name: levels[cluster] for name, cluster in zip(self.values, found, strict=True)}

    def table(self) -> Table:
        """A table with a row for each site."""
        columns = (Column("site", "site", align="left"), Column("metric", "metric", "{:.4g}"))
        return Table(columns, self.sites, "AL metric")

    def summary(self) -> str:
        """The notes as a list."""
        return "\n".join(f"- {note}" for note in self.notes)


def level_metric(
    model: nn.Module | Graph,
    images: Batches | Dataset[Any],
    *,
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    alpha: float | None = None,
    moments: Moments = "activations",
    seed: int = 0,
) -> LevelMetric:
    r"""Measure how much the quantisation of each site can be coarsened (PASCAL, Algorithm 3 and Eqs. 3-6).

    .. math::
        M = A \, (g^2 + 1) \, K, \quad A = 1 - \frac{S - 1}{L}, \quad g = \frac{m_3}{s^3}, \quad
        K = \frac{(n + 1) n}{(n - 1)(n - 2)(n - 3)} \frac{\sum_i (x_i - \bar x)^4}{s^4}

    A is Van der Eijk's agreement of the L + 1 bins, of which S (at least one) hold a fraction of α or more. g and K are
    the skewness and the kurtosis of the n activations x, in units of the site's θ/L; s² is their variance with n − 1.
    For n <= 3, K is the kurtosis of the population, n Σ(x − x̄)⁴ / (Σ(x − x̄)²)², because Eq. 5 is not defined.

    With ``moments="counts"``, M is that of the authors' code (``get_stats.py``): x are the n = L + 1 counts of the
    bins, α is 1/(L + 1), and with the moments m₂, m₃, m₄ of the population

    .. math::
        g = \frac{m_3}{m_2^{3/2}}, \quad K = \frac{m_4}{m_2^2} - 3 + \frac{3 n^2}{(n - 2)(n - 3)}

    If all activations of a site are equal, g and K diverge: M is infinite, and ``notes`` names the site.

    Args:
        model: a trained network with quantised activations: a module with :class:`rheobase.QCFS` activations, a network
            of :func:`rheobase.quantise`, or its graph.
        images: training images, never test images, as for :func:`rheobase.convert`; labels are ignored.
        num_calibration_images: size of the random sample of them to use, drawn by the seed.
        alpha: α; default: 1 / (2 · number of sites), or with ``moments="counts"`` 1/(L + 1).
        moments: ``"activations"``: as in the paper's equations; ``"counts"``: as in the authors' code.
        seed: seed of the sample.

    Raises:
        ModelError: if ``model`` is not a network.
        TraceError: if a module cannot be traced.
        RecipeError: if a site is not quantised, or α is not between 0 and 1.
        DataError: if the images do not fit the network.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(16, 3, 32, 32)
        >>> network = rb.quantise(zoo.resnet20(), rb.Pascal(levels=4), calibration=images)
        >>> found = rb.methods.level_metric(network, images)
        >>> len(found.sites), len(found.sites[0].histogram)
        (19, 5)
    """
    drawn = sample(images, num_calibration_images, seed, where="images")
    if isinstance(model, nn.Module) and not isinstance(model, TrainableGraph):
        check_bins(alpha, moments)
        model, _ = traced(model, drawn.images, None, "gate")
    return measure(model, drawn.images.split(_AT_ONCE), alpha, moments)


def measure(
    model: TrainableGraph | Graph, images: Iterable[Tensor], alpha: float | None, moments: Moments
) -> LevelMetric:
    """:func:`level_metric` of all batches of ``images``."""
    if not isinstance(model, TrainableGraph | Graph):
        raise ModelError.typed(
            f"is a {type(model).__name__}",
            where="model",
            remedy="pass a network with quantised activations: rb.quantise(net, rb.Pascal(levels=8), calibration=...)",
        )
    check_bins(alpha, moments)
    graph, _ = fold_batch_norm(model.to_graph() if isinstance(model, TrainableGraph) else model)
    sites = site_table(graph)
    if not sites:
        raise ModelError("has no activation", where="model", remedy="give a network with quantised activations")
    if alpha is None and moments == "activations":
        alpha = 1 / (2 * len(sites))
    activations = [trained(site, graph) for site in sites]
    counts = [torch.zeros(levels + 1, dtype=torch.int64) for _, levels in activations]

    def add(site: Site, x: Tensor) -> None:
        threshold, levels = activations[site.index]
        level = (x * (levels / along_channels(threshold.cpu(), x.dim()))).round_().long()
        counts[site.index] += torch.bincount(level.flatten(), minlength=levels + 1)

    seen = 0
    for part in images:
        check_input(graph, part)
        observe(graph, part, add)
        seen += len(part)
    found = tuple(site_metric(site.name, counts[site.index].tolist(), alpha, moments) for site in sites)
    return LevelMetric(found, alpha, moments, seen)


def site_metric(
    site: str, histogram: Sequence[int], alpha: float | None = None, moments: Moments = "activations"
) -> SiteMetric:
    """The AL metric of one histogram of L + 1 bins; see :func:`level_metric`. α is 1/(L + 1) if it is None.

    Example:
        >>> round(site_metric("relu", [4, 0, 0, 0, 1], alpha=0.25).metric, 3)  # A = 1, g² = 1.152, K = 13
        27.976
    """
    check_bins(alpha, moments)
    total = sum(histogram)
    # whole numbers: equal counts all fill their bins
    filled = sum(count * len(histogram) >= total if alpha is None else count >= alpha * total for count in histogram)
    agreement = 1 - (max(filled, 1) - 1) / (len(histogram) - 1)
    if moments == "activations":
        squared, skewness, kurtosis = _shape(range(len(histogram)), histogram)
    else:
        squared, skewness, kurtosis = _released_shape(histogram)
    # without agreement every level is needed, whatever the shape of the distribution
    metric = agreement * (squared + 1) * kurtosis if agreement > 0 else 0.0
    return SiteMetric(site, tuple(histogram), agreement, skewness, kurtosis, metric)


def check_bins(alpha: float | None, moments: Moments) -> None:
    """Refuse an α that is not a fraction, and unknown moments."""
    if alpha is not None:
        check_fraction(alpha, "alpha")
    check_choice(moments, Moments, "moments")


def check_falling(levels: Sequence[int]) -> None:
    """Refuse levels of clusters that do not descend, are empty, or are not whole numbers from 1."""
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not levels:
        raise RecipeError(f"are {levels!r}", where="levels", remedy="give one L for each cluster, such as (8, 4)")
    for value in levels:
        check_levels(value)
    if list(levels) != sorted(set(levels), reverse=True):
        raise RecipeError(
            f"are {tuple(levels)}",
            where="levels",
            remedy="give them in descending order: the first is for the sites that need the most levels",
        )


def clusters(values: Sequence[float], number: int) -> tuple[int, ...]:
    """Divide numbers into clusters with the least sum of squared distances to their means (Grønlund et al. 2018).

    Returns the index of the cluster of each value; 0 is the cluster with the smallest mean. Infinite values do not
    affect the clusters and join the last one. Refuses fewer different finite values than clusters.

    Example:
        >>> clusters([5.0, 0.0, 1.0, 6.0, math.inf], 2)
        (1, 0, 0, 1, 1)
    """
    finite = [value for value in values if math.isfinite(value)]
    differing = len(set(finite))
    if differing < number:
        raise RecipeError(
            f"are {number}, one per cluster of sites, but the metric has only {differing} different values",
            where="levels",
            remedy=f"give at most {differing}" if differing else "train the network first: no site's activation varies",
        )
    found = iter(kmeans1d.cluster(finite, number).clusters)
    return tuple(next(found) if math.isfinite(value) else number - 1 for value in values)


def _shape(values: Sequence[int], counts: Sequence[int]) -> tuple[float, float, float]:
    """(g², g, K) of values with given counts, by Eqs. 4 and 5."""
    n, second, third, fourth = _moments(values, counts)
    if second == 0:
        return math.inf, math.inf, math.inf
    squared = third**2 * (n - 1) ** 3 / (n**2 * second**3)
    skewness = math.copysign(math.sqrt(squared), third)
    if n <= 3:
        return squared, skewness, n * fourth / second**2
    return squared, skewness, (n + 1) * n * (n - 1) * fourth / ((n - 2) * (n - 3) * second**2)


def _released_shape(counts: Sequence[int]) -> tuple[float, float, float]:
    """(g², g, K) of the counts themselves, as the authors' code has them."""
    n, second, third, fourth = _moments(counts, [1] * len(counts))
    if second == 0:
        return math.inf, math.inf, math.inf
    squared = n * third**2 / second**3
    skewness = math.copysign(math.sqrt(squared), third)
    shift = 3 * n**2 / ((n - 2) * (n - 3)) - 3 if n > 3 else 0.0  # where it has no value: the population's kurtosis
    return squared, skewness, n * fourth / second**2 + shift


def _moments(values: Sequence[int], counts: Sequence[int]) -> tuple[int, int, int, int]:
    """n, and Σ (x − x̄)^p · n^p for p = 2, 3, 4, in integers: sums of billions of powers lose precision."""
    n = sum(counts)
    first = sum(count * x for x, count in zip(values, counts, strict=True))
    second, third, fourth = (
        sum(count * (n * x - first) ** p for x, count in zip(values, counts, strict=True)) for p in (2, 3, 4)
    )
    return n, second, third, fourth


@dataclass(frozen=True)
class AdaptedLevels(Result):
    """A network trained with adaptive levels.

    Attributes:
        model: the trained network in eval mode, to be converted with ``rb.Pascal()``.
        metric: the AL metric that the levels were chosen by.
        levels: L of every site.
        history: one record for each epoch of both stages, numbered consecutively.
        epoch: number of the epoch whose weights ``model`` has.
        switched: number of the last epoch with uniform levels.
    """

    model: TrainableGraph
    metric: LevelMetric
    levels: dict[str, int]
    history: tuple[Epoch, ...]
    epoch: int
    switched: int

    @property
    def mean_level(self) -> float:
        """Unweighted mean of L over the sites; PASCAL's T_eff (Eq. 16) is ``examples/pascal_cost.py``."""
        return sum(self.levels.values()) / len(self.levels)

    def to_json(self) -> dict[str, Any]:
        """Everything except the model, as plain values."""
        names = ("levels", "mean_level", "metric", "epoch", "switched", "history")
        return {name: plain_values(getattr(self, name)) for name in names}

    def table(self) -> Table:
        """A table with the metric and L of each site."""
        metric = self.metric.table()
        columns = (*metric.columns, Column("L", lambda row: self.levels[row.site]))
        return Table(columns, metric.rows, "Adaptive levels")

    def summary(self) -> str:
        """The mean level, and the notes of the metric."""
        mean = f"Mean level {self.mean_level:.2f}, from epoch {self.switched + 1} on."
        return f"{mean}\n\n{self.metric.summary()}".rstrip()


def adapt_levels(
    model: TrainableGraph,
    data: Batches | Dataset[Any],
    training: Training,
    *,
    levels: Sequence[int],
    metric: LevelMetric | None = None,
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    alpha: float | None = None,
    moments: Moments = "activations",
    share: float = SHARE,
    validation: float | Batches | Dataset[Any] | None = 0.1,
    folder: str | Path | None = None,
    seed: int = 0,
    workers: int = 0,
    **options: Any,
) -> AdaptedLevels:
    """Train with uniform levels, adapt the levels of every site, and continue (PASCAL, section 3.4 and Algorithm 4).

    The first stage trains ``model`` with its levels for a fraction of the epochs. The AL metric
    (:func:`level_metric`) on training images then divides the sites into clusters, one for each of
    ``levels``; weights and θ are kept. The second stage trains the remaining epochs by the same schedule, starting at
    the learning rate that the schedule of all epochs has reached, without a second warm-up.

    Differs from the paper: there the metric is of a network trained for all epochs, and training then starts again. To
    reproduce it, train such a network, pass its ``metric``, and pass an untrained network as ``model``.

    Args:
        model: from ``rb.quantise(net, rb.Pascal(levels=8), calibration=...)``; not changed.
        data, validation, seed, workers, options: as for :func:`rheobase.train`.
        training: settings of both stages; ``epochs`` is the total.
        levels: L of each cluster, in descending order; the first is for the sites with the smallest metric, which need
            the most levels.
        metric: metric of a network with the same sites; default: measured after the first stage. Only then
            ``num_calibration_images``, ``alpha`` and ``moments`` have an effect.
        num_calibration_images: number of training images for the metric, drawn by the seed, without validation images.
        alpha, moments: as for :func:`level_metric`.
        share: p, fraction of the epochs in the first stage.
        folder: folder for checkpoints and metrics, in the sub-folders ``uniform`` and ``adapted``. The same call
            resumes an interrupted run, in either stage.

    Raises:
        ModelError: if ``model`` is not a quantised network, or learns its levels.
        RecipeError: if the levels do not descend, are more than the sites, or the metric has too few distinct values.
        TrainingError: if ``share`` is not a fraction or there is only one epoch, and as for :func:`rheobase.train`.
        DataError: as for :func:`rheobase.train`.

    Example:
        >>> import rheobase as rb
        >>> from rheobase.zoo.digits import DigitsResNet, digits
        >>> images, labels = digits().train
        >>> network = rb.quantise(DigitsResNet(), rb.Pascal(levels=8), calibration=images)
        >>> training = rb.Training(epochs=2, learning_rate=0.05)
        >>> adapted = rb.methods.adapt_levels(network, (images, labels), training, levels=(8, 4))
        >>> sorted(set(adapted.levels.values())), len(adapted.history)
        ([4, 8], 2)
    """
    if not isinstance(model, TrainableGraph):
        raise ModelError.typed(
            f"is a {type(model).__name__}",
            where="model",
            remedy="quantise it first: rb.quantise(net, rb.Pascal(levels=8), calibration=...)",
        )
    if model.learns_levels:
        raise ModelError(
            "learns its levels in training",
            where="model",
            remedy="quantise with rb.Pascal(levels=8), or train it with rb.train",
        )
    check_falling(levels)
    number, seed = check_whole(num_calibration_images, "num_calibration_images"), check_seed(seed)
    check_bins(alpha, moments)
    if len(levels) > len(model.activations):
        raise RecipeError(
            f"are {len(levels)}, but the network has {len(model.activations)} sites",
            where="levels",
            remedy="give at most as many levels as sites",
        )
    if metric is not None and set(metric.values) != set(model.activations):
        raise RecipeError(
            "has other sites than the network", where="metric", remedy="measure it on a network with the same sites"
        )
    first, second = stages(training, share)
    pool = _kept(data, "training data", workers)
    if not isinstance(validation, float | int | None):
        validation = _kept(validation, "validation data", workers)
    fitted, _ = split_data(pool, validation, training, seed, workers, fields=True)
    options |= {"validation": validation, "seed": seed, "workers": workers}

    def stage(network: TrainableGraph, settings: Training, name: str) -> tuple[TrainableGraph, Trained]:
        place = None if folder is None else user_path(folder) / name
        done = train(network, pool, settings, folder=place, **options)
        return cast(TrainableGraph, done.model), done

    uniform, before = stage(model, first, UNIFORM)
    if metric is None:
        metric = measure(uniform, _chosen(fitted, number, seed), alpha, moments)
    wanted = metric.assign(levels)
    adapted, after = stage(switch(uniform, wanted), second, ADAPTED)
    switched = len(before.history)
    numbered = tuple(replace(record, epoch=n) for n, record in enumerate((*before.history, *after.history), 1))
    return AdaptedLevels(adapted, metric, wanted, numbered, switched + after.epoch, switched)


def stages(training: Training, share: float) -> tuple[Training, Training]:
    """The settings of both stages, each of at least one epoch."""
    if not isinstance(training, Training):
        raise TrainingError.typed(
            f"is a {type(training).__name__}", where="training", remedy="give rb.Training(epochs=..., ...)"
        )
    check_fraction(share, "share", error=TrainingError)
    if training.epochs < 2:
        raise TrainingError("is 1, but both stages need one", where="training.epochs", remedy="use at least 2")
    epochs = min(max(round(share * training.epochs), 1), training.epochs - 1)
    rate = training.rate_at(epochs, 1)
    second = training.replace(epochs=training.epochs - epochs, learning_rate=rate, warmup_epochs=0)
    return training.replace(epochs=epochs), second


def switch(model: TrainableGraph, levels: dict[str, int]) -> TrainableGraph:
    """The same network with the same weights and θ, and other levels."""
    rounding = next(iter(model.activations.values())).rounding
    # for "round" the activation of QVM is that of PASCAL; the images are not used, because every θ is known
    return quantise(model, QVM(levels=levels, rounding=rounding), calibration=torch.zeros(1, *model.input_shape))


def _kept(data: Batches | Dataset[Any], where: str, workers: int) -> Batches | Dataset[Any]:
    """Data in an order that is the same in both stages: a loader that shuffles is read once."""
    source = read(data, where=where, workers=workers, fields=True)
    if isinstance(source, OnDisk):
        return data
    return source.images if source.labels is None else (source.images, source.labels)


def _chosen(fitted: Part, number: int, seed: int) -> Iterable[Tensor]:
    generator = torch.Generator().manual_seed(derive(seed, "levels"))
    numbers = fitted.numbers[torch.randperm(len(fitted), generator=generator)[:number]].sort().values
    for part, _ in fitted.source.batches(numbers.split(_AT_ONCE)):
        yield part
