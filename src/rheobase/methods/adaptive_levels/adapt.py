"""Training in two stages: with uniform levels, then with levels by site from the AL metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rheobase.core.checks import check_fraction, check_whole
from rheobase.core.errors import ModelError, RecipeError, TrainingError
from rheobase.core.results import Column, Result, Table, plain_values
from rheobase.core.seeds import check_seed, derive
from rheobase.data.batches import Batches
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.data.sources import OnDisk, Part, read
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods._quantise import quantise
from rheobase.methods.adaptive_levels.metric import LevelMetric, Moments, check_bins, check_falling, measure
from rheobase.methods.qvm import QVM
from rheobase.training import Epoch, Trained, Training, train
from rheobase.training.checks import split_data

UNIFORM, ADAPTED = "uniform", "adapted"
"""Folders of the stages."""
SHARE = 2 / 3
"""p of Algorithm 4: fraction of the epochs in the first stage."""
_AT_ONCE = 100


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
        """Unweighted mean of L, and thus of the time-steps, over the sites.

        PASCAL's T_eff (Eq. 16) weights each site by the cost of its neurons: ``examples/pascal_cost.py``.
        """
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
        return "\n\n".join(filter(None, (mean, self.metric.summary())))


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
    (:func:`rheobase.methods.level_metric`) on training images then divides the sites into clusters, one for each of
    ``levels``; weights and θ are kept. The second stage trains the remaining epochs by the same schedule, starting at
    the learning rate that the schedule of all epochs has reached, without a second warm-up.

    Differs from the paper: there the metric is of a network trained for all epochs, and training then starts again. To
    reproduce it, train such a network, pass its ``metric``, and pass an untrained network as ``model``.

    Args:
        model: from ``rb.quantise(net, rb.Pascal(levels=8), calibration=...)``; not changed.
        data: as for :func:`rheobase.train`.
        training: settings of both stages; ``epochs`` is the total.
        levels: L of each cluster, in descending order; the first is for the sites with the smallest metric, which need
            the most levels.
        metric: metric of a network with the same sites; default: measured after the first stage. Only then
            ``num_calibration_images``, ``alpha`` and ``moments`` have an effect.
        num_calibration_images: number of training images for the metric, drawn by the seed. Validation images are not
            used.
        alpha: as for :func:`rheobase.methods.level_metric`.
        moments: as for :func:`rheobase.methods.level_metric`.
        share: p, fraction of the epochs in the first stage.
        validation: as for :func:`rheobase.train`.
        folder: folder for checkpoints and metrics, in the sub-folders ``uniform`` and ``adapted``. The same call
            resumes an interrupted run, in either stage.
        seed: as for :func:`rheobase.train`.
        workers: as for :func:`rheobase.train`.
        options: further options of :func:`rheobase.train`.

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
    fitted, _ = split_data(pool, validation, training, seed, workers)

    def trained(network: TrainableGraph, settings: Training, name: str) -> Trained:
        place = None if folder is None else Path(folder) / name
        return train(
            network, pool, settings, validation=validation, folder=place, seed=seed, workers=workers, **options
        )

    before = trained(model, first, UNIFORM)
    if metric is None:
        metric = measure(cast(TrainableGraph, before.model), _chosen(fitted, number, seed), alpha, moments)
    wanted = metric.assign(levels)
    after = trained(switch(cast(TrainableGraph, before.model), wanted), second, ADAPTED)
    switched = len(before.history)
    numbered = tuple(replace(record, epoch=n) for n, record in enumerate((*before.history, *after.history), 1))
    return AdaptedLevels(cast(TrainableGraph, after.model), metric, wanted, numbered, switched + after.epoch, switched)


def stages(training: Training, share: float) -> tuple[Training, Training]:
    """The settings of both stages.

    Raises:
        TrainingError: if a stage would have no epoch.
    """
    if not isinstance(training, Training):
        raise TrainingError.typed(
            f"is a {type(training).__name__}", where="training", remedy="give rb.Training(epochs=..., ...)"
        )
    check_fraction(share, "share", error=TrainingError)
    if training.epochs < 2:
        raise TrainingError("is 1, but both stages need one", where="training.epochs", remedy="use at least 2")
    epochs = min(max(round(share * training.epochs), 1), training.epochs - 1)
    rate = training.rate_at(epochs, 1)
    fields = dict(training)
    first = Training(**{**fields, "epochs": epochs})
    return first, Training(**{**fields, "epochs": training.epochs - epochs, "learning_rate": rate, "warmup_epochs": 0})


def switch(model: TrainableGraph, levels: dict[str, int]) -> TrainableGraph:
    """The same network with the same weights and θ, and other levels."""
    rounding = next(iter(model.activations.values())).rounding
    # for "round" the activation of QVM is that of PASCAL; the images are not used, because every θ is known
    return quantise(model, QVM(levels=levels, rounding=rounding), calibration=torch.zeros(1, *model.input_shape))


def _kept(data: Batches | Dataset[Any], where: str, workers: int) -> Batches | Dataset[Any]:
    """Data in an order that is the same in both stages: a loader that shuffles is read once."""
    source = read(data, where=where, workers=workers)
    if isinstance(source, OnDisk):
        return data
    return source.images if source.labels is None else (source.images, source.labels)


def _chosen(fitted: Part, number: int, seed: int) -> Iterable[Tensor]:
    generator = torch.Generator().manual_seed(derive(seed, "levels"))
    numbers = fitted.numbers[torch.randperm(len(fitted), generator=generator)[:number]].sort().values
    for part, _ in fitted.source.batches(numbers.split(_AT_ONCE)):
        yield part
