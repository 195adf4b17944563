"""Adaptive levels: the metric against plain loops, optimal clusters, and training in two stages."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import networks
import rheobase as rb
from conftest import Stop, grid_images
from rheobase.activations.staircase import Staircase
from rheobase.core.errors import DataError, ModelError, RecipeError, StoreError, TrainingError
from rheobase.graph import fold_batch_norm
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure.plots import level_metric_plot
from rheobase.methods.adaptive_levels import LevelMetric, SiteMetric, clusters, site_metric, stages, switch
from rheobase.zoo.digits import digits

SETTINGS = rb.Training(epochs=3, learning_rate=0.05, batch_size=50)


def few(count: int = 150) -> tuple[Tensor, Tensor]:
    images, labels = digits().train
    return images[:count], labels[:count]


def small() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    layers += [nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 10)]
    return nn.Sequential(*layers)


@cache
def traced(levels: int) -> TrainableGraph:
    torch.manual_seed(0)
    return rb.quantise(small(), rb.Pascal(levels=levels), calibration=few()[0])


def quantised(levels: int = 8) -> TrainableGraph:
    return copy.deepcopy(traced(levels))


def made(values: dict[str, float]) -> LevelMetric:
    sites = tuple(SiteMetric(name, (1, 1), 0.0, 0.0, 0.0, value) for name, value in values.items())
    return LevelMetric(sites, 0.1, "activations", 1)


# -- metric --------------------------------------------------------------------------------------------------


def test_worked_out_by_hand() -> None:
    """Four zeros and a 4: mean 0.8, Σd² = 12.8, Σd³ = 30.72, Σd⁴ = 106.496, s² = 3.2; five bins, one of them filled."""
    found = site_metric("relu", [4, 0, 0, 0, 1], alpha=0.25)
    assert found.agreement == 1.0
    assert found.skewness == pytest.approx(6.144 / 3.2**1.5)
    assert found.kurtosis == pytest.approx(30 / 24 * 106.496 / 3.2**2)
    assert found.metric == pytest.approx((6.144**2 / 3.2**3 + 1) * 13.0)
    assert site_metric("relu", [4, 0, 0, 0, 1], alpha=0.2).agreement == 0.75  # the share is α: filled


def slow(x: list[float], filled: int, bins: int) -> tuple[float, float, float, float]:
    """Eqs. 3-6 as they stand, sample by sample."""
    n = len(x)
    mean = math.fsum(x) / n
    second, third, fourth = (math.fsum((value - mean) ** p for value in x) for p in (2, 3, 4))
    agreement = 1 - (filled - 1) / (bins - 1)
    skewness = (third / n) / (second / (n - 1)) ** 1.5
    kurtosis = (n + 1) * n / ((n - 1) * (n - 2) * (n - 3)) * fourth / (second / (n - 1)) ** 2
    return agreement, skewness, kurtosis, agreement * (skewness**2 + 1) * kurtosis


histograms = st.lists(st.integers(0, 40), min_size=2, max_size=17)


@given(
    histograms.filter(lambda h: sum(h) > 3 and sum(c > 0 for c in h) > 1),
    st.sampled_from([0.01, 0.05, 0.1, 0.2]),
    st.floats(0.1, 9.0),
)
def test_against_plain_loops(histogram: list[int], alpha: float, step: float) -> None:
    """Of the activations, whatever the site's θ/L: the moments do not depend on it."""
    x = [level * step for level, count in enumerate(histogram) for _ in range(count)]
    filled = max(1, sum(count >= alpha * len(x) for count in histogram))
    found = site_metric("relu", histogram, alpha)
    expected = slow(x, filled, len(histogram))
    assert (found.agreement, found.skewness, found.kurtosis, found.metric) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


def released(counts: list[int]) -> float:
    """The authors' arithmetic with the bins' counts, count by count: population moments, excess kurtosis, a shift."""
    n = len(counts)
    mean = sum(counts) / n
    deviation = (math.fsum((count - mean) ** 2 for count in counts) / n) ** 0.5
    skewness = math.fsum((count - mean) ** 3 for count in counts) / n / deviation**3
    excess = math.fsum((count - mean) ** 4 for count in counts) / n / deviation**4 - 3
    filled = sum(count >= sum(counts) / n for count in counts)
    return (1 - (filled - 1) / (n - 1)) * (skewness**2 + 1) * (excess + 3 * n**2 / ((n - 2) * (n - 3)))


@given(histograms.filter(lambda h: len(h) > 3 and len(set(h)) > 1))
def test_of_the_counts_it_is_the_released_metric(histogram: list[int]) -> None:
    assert site_metric("relu", histogram, moments="counts").metric == pytest.approx(released(histogram), rel=1e-9)


def test_the_released_metric_by_hand() -> None:
    """Counts 6, 1, 1, 1, 1: mean 2, m₂ = 4, m₃ = 12, m₄ = 52; one bin holds a fifth; K = 3.25 − 3 + 75/6."""
    found = site_metric("relu", [6, 1, 1, 1, 1], moments="counts")
    assert (found.agreement, found.skewness) == (1.0, pytest.approx(1.5))
    assert found.kurtosis == pytest.approx(12.75)
    assert found.metric == pytest.approx(3.25 * 12.75)
    assert site_metric("relu", [6, 1, 1, 1, 1], 0.1, "counts").agreement == 0.0  # every bin holds a tenth


def test_where_the_equations_have_no_value() -> None:
    """L = 2: three counts. 0, 0, 3 have mean 1, m₂ = 2, m₃ = 2, m₄ = 6: the population's kurtosis is 6/4."""
    found = site_metric("relu", [0, 0, 3], moments="counts")
    assert found.kurtosis == pytest.approx(1.5)
    assert found.skewness == pytest.approx(2 / 2**1.5)
    assert found.metric == pytest.approx(1.5 * 1.5)
    assert site_metric("relu", [2, 1], 0.1).kurtosis == pytest.approx(1.5)  # of three activations 0, 0, 1
    assert site_metric("relu", [7, 3], moments="counts").kurtosis == pytest.approx(1.0)  # of two counts: always 1


@pytest.mark.slow
def test_a_module_with_qcfs_activations() -> None:
    """As `convert` takes it, max-pooling included; the same numbers as its graph."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), rb.QCFS(levels=4, threshold=2.0), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 16), rb.QCFS(levels=2), nn.Linear(16, 10)).eval()
    images = few()[0]
    assert rb.convert(module, rb.Pascal(), calibration=images, max_pool="gate").execution_mode == "counts"
    found = rb.methods.level_metric(module, images)
    with torch.no_grad():
        level = (module[:3](images) / 0.5).round().long()
    counted = torch.bincount(level.flatten(), minlength=5)
    assert [site.site for site in found.sites] == ["2", "6"]
    moved = (counted - torch.tensor(found.sites[0].histogram)).abs().sum()
    assert int(moved) <= 1e-3 * level.numel()  # folding batch normalisation rounds
    assert len(found.sites[1].histogram) == 3


def test_every_level_needed() -> None:
    """Equal counts leave no agreement, even where skewness and kurtosis of the counts are undefined."""
    for moments in ("activations", "counts"):
        assert site_metric("relu", [5, 5, 5, 5, 5], 0.1, moments).metric == 0.0


def test_billions_of_activations_do_not_round() -> None:
    """All but one of 10⁹ are 0: g² = n and K = n to first order."""
    n = 10**9
    found = site_metric("relu", [n - 1, 0, 0, 1], 0.1)
    assert found.skewness**2 == pytest.approx(n, rel=1e-6)
    assert found.kurtosis == pytest.approx(n, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_the_histogram_is_that_of_the_network(granularity: Any) -> None:
    images = grid_images("OptionAResNet")
    network = rb.quantise(
        networks.build("OptionAResNet"), rb.Pascal(levels=4, granularity=granularity), calibration=images
    ).eval()
    counts: dict[str, Counter[int]] = {name: Counter() for name in network.activations}
    for name, activation in network.activations.items():

        def count(module: Staircase, _: Any, a: Tensor, name: str = name) -> None:
            theta = module.threshold.reshape(-1, *(1,) * (a.dim() - 2)) if module.threshold.dim() else module.threshold
            levels = (a.double() / theta.double() * 4).flatten().tolist()
            assert max(abs(level - round(level)) for level in levels) < 1e-4
            counts[name].update(round(level) for level in levels)

        activation.register_forward_hook(count)
    # batch norm not folded rounds otherwise, which may move an input at the edge of a step
    with torch.no_grad():
        for part in images.split(7):
            network(part)
    found = rb.methods.level_metric(network, images)
    assert found.images == 20
    for site in found.sites:
        total = counts[site.site].total()
        moved = sum(abs(count - counts[site.site][level]) for level, count in enumerate(site.histogram))
        assert sum(site.histogram) == total
        assert moved <= 1e-3 * total
    graph = fold_batch_norm(network.to_graph())[0]
    assert rb.methods.level_metric(graph, (images, torch.zeros(20))).sites == found.sites
    assert rb.methods.level_metric(graph, DataLoader(TensorDataset(images), batch_size=3)).sites == found.sites
    drawn = rb.methods.level_metric(graph, images, num_calibration_images=7, seed=3)
    assert drawn.sites == rb.methods.level_metric(graph, rb.data.sample(images, 7, seed=3).images).sites
    assert found.alpha == 1 / (2 * len(found.sites))


def test_another_alpha_from_the_same_histograms() -> None:
    network, images = quantised(), few()[0]
    found = rb.methods.level_metric(network, images)
    assert found.at(0.02) == rb.methods.level_metric(network, images, alpha=0.02)
    sweep = found.sweep()
    assert list(sweep) == ["k = 1", "k = 0.75", "k = 0.5"]
    assert sweep["k = 0.5"] == found
    assert sweep["k = 1"].alpha == pytest.approx(1 / 3)
    for one in sweep.values():
        for site in one.sites:
            filled = sum(count >= one.alpha * sum(site.histogram) for count in site.histogram)
            assert site.agreement == 1 - (max(filled, 1) - 1) / 8
    counts = rb.methods.level_metric(network, images, moments="counts")
    assert counts.alpha is None
    assert counts.values == pytest.approx({site.site: released(list(site.histogram)) for site in found.sites})
    assert counts.at(0.02) == rb.methods.level_metric(network, images, alpha=0.02, moments="counts")


def test_dead_and_stuck_sites() -> None:
    """They join the sites that need least, say so, and survive JSON."""
    network = quantised(4)
    with torch.no_grad():
        network.state_dict()["3.bias"].fill_(-1e6)
        network.state_dict()["6.bias"].fill_(1e6)
    found = rb.methods.level_metric(network, few()[0])
    first, dead, stuck = found.sites
    assert dead.histogram[1:] == (0, 0, 0, 0)
    assert math.isfinite(first.metric)
    assert (dead.metric, stuck.metric) == (math.inf, math.inf)
    assert [note.split(" on ")[0] for note in found.notes] == [
        f"{dead.site}: never active",
        f"{stuck.site}: always at level 4",
    ]
    assert found.assign([4]) == dict.fromkeys(network.activations, 4)
    with pytest.raises(RecipeError, match=r"levels: are 2.*at most 1"):
        found.assign((4, 2))
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["sites"][1]["metric"] is None
    assert plain["sites"][0]["metric"] == first.metric
    assert len(plain["notes"]) == 2


@pytest.mark.slow
def test_networks_and_options_that_have_no_metric() -> None:
    network, images = quantised(), few()[0]
    with pytest.raises(ModelError, match=r"model: is a str\. Remedy: pass a network with quantised"):
        rb.methods.level_metric("net", images)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="2: is not a quantised activation"):
        rb.methods.level_metric(small(), images)
    analog = fold_batch_norm(rb.graph.capture(small(), images[:2]).graph)[0]
    with pytest.raises(RecipeError, match="not a quantised activation"):
        rb.methods.level_metric(analog, images)
    for alpha in (0.0, 1.0, -1, math.nan, True, "a"):
        with pytest.raises(RecipeError, match="alpha: is"):
            rb.methods.level_metric(network, images, alpha=alpha)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="alpha: is"):
        rb.methods.level_metric(network, images).at(2)
    with pytest.raises(RecipeError, match="moments: is 'bins'"):
        rb.methods.level_metric(network, images, moments="bins")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="num_calibration_images: is 0"):
        rb.methods.level_metric(network, images, num_calibration_images=0)
    with pytest.raises(DataError, match="images: have shape"):
        rb.methods.level_metric(network, images[:, :, 1:])
    with pytest.raises(DataError, match="images: is empty"):
        rb.methods.level_metric(network, images[:0])


# -- clusters ------------------------------------------------------------------------------------------------


def spread(values: list[float], cut: list[int]) -> float:
    """Sum over clusters of squared distances to the mean; ``cut``: how many values in each."""
    total, left = 0.0, list(values)
    for size in cut:
        part, left = left[:size], left[size:]
        mean = math.fsum(part) / size
        total += math.fsum((value - mean) ** 2 for value in part)
    return total


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=8), st.integers(1, 5))
def test_clusters_are_the_best_of_all_partitions(values: list[float], number: int) -> None:
    if len(set(values)) < number:
        with pytest.raises(RecipeError, match="different values"):
            clusters(values, number)
        return
    found = clusters(values, number)
    groups = [[v for v, c in zip(values, found, strict=True) if c == cluster] for cluster in range(number)]
    means = [math.fsum(group) / len(group) for group in groups]
    assert all(a < b for a, b in itertools.pairwise(means))
    ordered = sorted(values)
    best = math.inf
    for borders in itertools.combinations(range(1, len(values)), number - 1):
        edges = [0, *borders, len(values)]
        best = min(best, spread(ordered, [b - a for a, b in itertools.pairwise(edges)]))
    cost = sum(spread(sorted(group), [len(group)]) for group in groups)
    assert cost == pytest.approx(best, rel=1e-9, abs=1e-6)


def test_levels_fall_with_the_metric() -> None:
    found = made({"a": 30.0, "b": 1.0, "c": math.inf, "d": 2.0, "e": 10.0})
    assert found.assign((8, 4, 1)) == {"a": 1, "b": 8, "c": 1, "d": 8, "e": 4}
    assert found.assign([3]) == dict.fromkeys("abcde", 3)


@pytest.mark.parametrize("levels", [(), (4, 8), (4, 4), "84", 8, None])
def test_levels_that_do_not_fall(levels: Any) -> None:
    with pytest.raises(RecipeError, match="levels: are"):
        made({"a": 1.0, "b": 2.0}).assign(levels)


@pytest.mark.parametrize("levels", [(8, 0), (8.0, 4), (True,)])
def test_levels_that_are_no_levels(levels: Any) -> None:
    with pytest.raises(ModelError, match="levels: is"):
        made({"a": 1.0, "b": 2.0}).assign(levels)


# -- training ------------------------------------------------------------------------------------------------


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def adapt(**options: Any) -> rb.methods.AdaptedLevels:
    return rb.methods.adapt_levels(
        quantised(), few(), SETTINGS, **{"levels": (8, 3), "num_calibration_images": 60, **options}
    )


def test_both_stages_by_hand() -> None:
    """What the one call does, step by step; the images of the metric come from those that train."""
    adapted = adapt()
    first, second = stages(SETTINGS, 2 / 3)
    assert (first.epochs, second.epochs) == (2, 1)
    assert second.learning_rate == pytest.approx(0.05 / 4)  # η/2 · (1 + cos(2π/3))
    before = rb.train(quantised(), few(), first)
    levels = adapted.metric.assign((8, 3))
    assert sorted(set(levels.values())) == [3, 8]
    switched = rb.quantise(before.model, rb.Pascal(levels=levels), calibration=few()[0])
    assert same(switched, before.model)
    after = rb.train(switched, few(), second)
    assert same(after.model, adapted.model)
    assert adapted.levels == levels == {name: a.levels for name, a in adapted.model.activations.items()}
    assert [record.epoch for record in adapted.history] == [1, 2, 3]
    losses = [record.train_loss for record in (*before.history, *after.history)]
    assert [record.train_loss for record in adapted.history] == losses
    assert adapted.switched == 2
    assert adapted.mean_level == sum(levels.values()) / 3
    assert adapted.metric.images == 60
    assert adapted.metric.moments == "activations"
    plain = json.loads(json.dumps(adapted.to_json()))
    assert plain["levels"] == levels
    assert plain["mean_level"] == adapted.mean_level


def test_the_metric_is_that_of_the_uniform_network_on_training_images() -> None:
    """With as many images as train, no choice is left: exactly those that are not validated on."""
    images, labels = few(100)
    kept = (images[80:], labels[80:])
    part = (images[:80], labels[:80])
    adapted = rb.methods.adapt_levels(quantised(), part, SETTINGS, levels=(8, 3), validation=kept)
    before = rb.train(quantised(), part, stages(SETTINGS, 2 / 3)[0], validation=kept)
    assert adapted.metric == rb.methods.level_metric(before.model, part)
    split = rb.methods.adapt_levels(quantised(), part, SETTINGS, levels=(8, 3))
    assert split.metric.images == 72  # a tenth is split off to validate


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["round", "floor"])
def test_the_spiking_network_predicts_what_the_quantised_one_does(rounding: Any) -> None:
    network = rb.quantise(small(), rb.QVM(levels=8, rounding=rounding), calibration=few()[0])
    training = rb.Training(epochs=3, learning_rate=0.1, batch_size=25)
    adapted = rb.methods.adapt_levels(network, few(1000), training, levels=(8, 4))
    assert len(set(adapted.levels.values())) == 2
    images = digits().test[0][:100]
    snn = rb.convert(adapted.model, rb.Pascal() if rounding == "round" else rb.QVM(rounding=rounding))
    assert {site.name: site.levels for site in snn.sites} == adapted.levels
    with torch.no_grad():
        expected = adapted.model(images)
        assert torch.equal(snn(images).argmax(1), expected.argmax(1))
    assert float((expected.argmax(1) == digits().test[1][:100]).double().mean()) > 0.5


def test_a_metric_of_another_run() -> None:
    """As the paper has it: measured on a converged network, then from the beginning."""
    names = list(quantised().activations)
    metric = made(dict(zip(names, (9.0, 1.0, 8.0), strict=True)))
    adapted = adapt(metric=metric)
    assert adapted.metric is metric
    assert list(adapted.levels.values()) == [3, 8, 3]
    with pytest.raises(RecipeError, match="metric: has other sites"):
        adapt(metric=made({"a": 1.0, "b": 2.0}))


def test_switching_keeps_weights_and_thresholds() -> None:
    network = rb.quantise(small(), rb.QVM(levels=8, rounding="ceil", granularity="channel"), calibration=few()[0])
    wanted = dict(zip(network.activations, (8, 2, 5), strict=True))
    changed = switch(network, wanted)
    assert same(changed, network)
    assert {name: a.levels for name, a in changed.activations.items()} == wanted
    assert {a.rounding for a in changed.activations.values()} == {"ceil"}
    assert {a.levels for a in network.activations.values()} == {8}


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 8])  # two steps an epoch: in the first, in the second, in the second stage
def test_a_killed_run_goes_on(tmp_path: Path, step: int) -> None:
    settings = rb.Training(epochs=6, learning_rate=0.05, batch_size=50)

    def run(penalty: Stop, folder: Path | None) -> rb.methods.AdaptedLevels:
        return rb.methods.adapt_levels(
            quantised(),
            few(),
            settings,
            levels=(8, 3),
            share=0.5,
            num_calibration_images=60,
            folder=folder,
            penalty=penalty,
        )

    whole = run(Stop(-1), None)
    with pytest.raises(KeyboardInterrupt):
        run(Stop(step), tmp_path)
    done = len((tmp_path / "uniform" / "metrics.jsonl").read_text().splitlines()) if step > 2 else 0
    assert done == min((step - 1) // 2, 3)
    again = run(Stop(-1), tmp_path)
    assert same(again.model, whole.model)
    assert again.metric == whole.metric
    assert [r.train_loss for r in again.history] == [r.train_loss for r in whole.history]
    assert {path.name for path in tmp_path.iterdir()} == {"uniform", "adapted"}
    finished = run(Stop(1), tmp_path)  # no step is left to take
    assert same(finished.model, whole.model)


def test_a_folder_with_other_levels_is_refused(tmp_path: Path) -> None:
    adapt(folder=tmp_path)
    with pytest.raises(
        TrainingError, match=r"adapted: holds the checkpoint of another run: activations .* was levels=3"
    ):
        adapt(folder=tmp_path, levels=(8, 4))
    with pytest.raises(TrainingError, match=r"uniform: holds the checkpoint of another run: activations .* levels=8"):
        rb.methods.adapt_levels(quantised(4), few(), SETTINGS, levels=(8, 3), folder=tmp_path)


def test_loaders_that_shuffle_and_labels_that_a_teacher_replaces() -> None:
    images, labels = few()
    loader = DataLoader(TensorDataset(images, labels), batch_size=40, shuffle=True)
    one_shot = iter(list(DataLoader(TensorDataset(images, labels), batch_size=40)))
    tensors = adapt()
    assert same(
        rb.methods.adapt_levels(quantised(), one_shot, SETTINGS, levels=(8, 3), num_calibration_images=60).model,
        tensors.model,
    )
    assert (
        len(rb.methods.adapt_levels(quantised(), loader, SETTINGS, levels=(8, 3), validation=iter([few(50)])).history)
        == 3
    )
    assert same(
        rb.methods.adapt_levels(
            quantised(), TensorDataset(images, labels), SETTINGS, levels=(8, 3), num_calibration_images=60
        ).model,
        tensors.model,
    )
    student = rb.methods.adapt_levels(quantised(), images, SETTINGS, levels=(8, 3), teacher=small())
    assert student.history[-1].train_accuracy is None


def test_runs_that_cannot_be() -> None:
    with pytest.raises(ModelError, match=r"model: is a Sequential\. Remedy: quantise it first"):
        rb.methods.adapt_levels(small(), few(), SETTINGS, levels=(8, 4))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="levels: are 4"):
        adapt(levels=(8, 4, 2, 1))
    with pytest.raises(RecipeError, match="levels: are"):
        adapt(levels=(3, 8))
    with pytest.raises(RecipeError, match="num_calibration_images: is 0"):
        adapt(num_calibration_images=0)
    for share in (0.0, 1, math.nan, "half"):
        with pytest.raises(TrainingError, match="share: is"):
            adapt(share=share)
    with pytest.raises(TrainingError, match=r"training\.epochs: is 1"):
        rb.methods.adapt_levels(quantised(), few(), rb.Training(epochs=1, learning_rate=0.1), levels=(8, 4))
    with pytest.raises(TrainingError, match="training: is a int"):
        rb.methods.adapt_levels(quantised(), few(), 3, levels=(8, 4))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="warmup_epochs 2"):
        stages(rb.Training(epochs=3, learning_rate=0.1, warmup_epochs=2), 2 / 3)


@given(st.integers(2, 400), st.floats(0.001, 0.999), st.sampled_from(["cosine", "constant"]))
def test_both_stages_make_up_all_epochs(epochs: int, share: float, schedule: Any) -> None:
    training = rb.Training(epochs=epochs, learning_rate=0.1, schedule=schedule, weight_decay=1e-3)
    first, second = stages(training, share)
    assert first.epochs + second.epochs == epochs
    assert abs(first.epochs - share * epochs) <= 1
    assert (first.weight_decay, second.weight_decay, second.schedule) == (1e-3, 1e-3, schedule)
    assert second.learning_rate == pytest.approx(training.rate_at(first.epochs * 7, 7))


# -- figures -------------------------------------------------------------------------------------------------


def test_figures(tmp_path: Path) -> None:
    found = made({"first": 30.0, "b": 1.0, "dead": math.inf})
    level_metric_plot(found, tmp_path / "one.png", levels=found.assign((8, 4)))
    level_metric_plot(rb.methods.level_metric(quantised(), few()[0]).sweep(), tmp_path / "three.png")
    for name in ("one.png", "three.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 400
            assert len(image.convert("L").getcolors(256) or []) > 10
    with pytest.raises(DataError, match="metrics: is empty"):
        level_metric_plot({}, tmp_path / "none.png")
    with pytest.raises(DataError, match="other sites"):
        level_metric_plot({"a": found, "b": made({"a": 1.0})}, tmp_path / "none.png")
    with pytest.raises(StoreError, match="cannot be written"):
        level_metric_plot(found, tmp_path / "x.foo")
