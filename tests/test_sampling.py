"""Calibration images are a seeded random sample of everything that was given, whatever holds it."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

import rheobase as rb
from rheobase.core.errors import DataError, RecipeError, RheobaseWarning
from rheobase.data import sample
from rheobase.data.calibration_data import CalibrationData, missing_classes
from rheobase.graph import capture
from rheobase.zoo.digits import digits, train

N = 60
IMAGES = torch.arange(2.0 * N).reshape(N, 2)
LABELS = torch.arange(N) // 6
SMALL = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 10))


class Recorded(Dataset[tuple[Tensor, int]]):
    """Images by their numbers, and the numbers that were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return IMAGES[index], int(LABELS[index])


def batched(sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(IMAGES.split(sizes), LABELS.split(sizes), strict=True)


def holders() -> dict[str, Any]:
    """The same images in everything that can hold them."""
    dataset = TensorDataset(IMAGES, LABELS)
    return {
        "tensors": (IMAGES, LABELS),
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_size=7),
        "loader with a function": DataLoader(dataset, batch_size=7, collate_fn=lambda items: _stack(items)),
        "batches": list(batched([7] * 8 + [4])),
        "generator": batched([25, 35]),
    }


def _stack(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in items]), torch.stack([label for _, label in items])


# The fault this is for


@pytest.mark.slow
def test_data_sorted_by_class_calibrate_as_well_as_shuffled_ones() -> None:
    """The first hundred images are of one class, and give 42 %."""
    images, labels = digits().train
    order = labels.argsort(stable=True)
    images, labels = images[order], labels[order]
    network = capture(train(digits().train, 2, seed=0), images[:4]).graph
    recipe = rb.FTBC(timesteps=4, ramp=1, batch_size=32, batches=2)

    def accuracy(calibration: Any) -> float:
        snn = rb.convert(network, recipe, calibration=calibration, num_calibration_images=100)
        found = rb.evaluate(snn, digits().test, (4,)).rows[0].accuracy
        assert found is not None
        return found

    shuffled = accuracy(digits().train)
    assert shuffled > 0.88
    for data in ((images, labels), zip(images.split(9), labels.split(9), strict=True)):
        assert accuracy(data) > shuffled - 0.04
    with pytest.warns(RheobaseWarning, match="9 of 10 classes have no calibration image"):
        assert accuracy((images[:100], labels[:100])) < 0.5


# What is drawn


@pytest.mark.parametrize("holder", holders())
def test_the_sample_is_of_everything_and_each_label_stays_with_its_image(holder: str) -> None:
    found = sample(holders()[holder], 20, seed=1)
    assert found.given == N
    assert len(set(found.numbers)) == len(found.images) == 20
    assert torch.equal(found.images, IMAGES[list(found.numbers)])
    assert found.labels is not None
    assert torch.equal(found.labels, LABELS[list(found.numbers)])
    assert max(found.numbers) > 40
    again, other = sample(holders()[holder], 20, seed=1), sample(holders()[holder], 20, seed=2)
    assert again.numbers == found.numbers
    assert set(other.numbers) != set(found.numbers)


@pytest.mark.parametrize("number", [N, N + 1, 10**9])
@pytest.mark.parametrize("holder", holders())
def test_where_there_are_no_more_all_are_taken_in_their_order(holder: str, number: int) -> None:
    found = sample(holders()[holder], number, seed=5)
    assert found.numbers == tuple(range(N))
    assert torch.equal(found.images, IMAGES)
    assert found.labels is not None
    assert torch.equal(found.labels, LABELS)


def test_what_is_read_by_numbers_gives_one_sample() -> None:
    numbers = {sample(holders()[holder], 20, seed=1).numbers for holder in ("tensors", "dataset", "loader")}
    assert len(numbers) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(0, 50), st.integers(1, 30))
def test_a_stream_may_be_cut_into_any_batches(sizes: list[int], seed: int, number: int) -> None:
    cuts = [size for i, size in enumerate(sizes) if sum(sizes[:i]) + size <= N]
    cuts.append(N - sum(cuts))
    found = sample(batched(cuts), number, seed)
    assert found.numbers == sample(batched([N]), number, seed).numbers
    assert torch.equal(found.images, IMAGES[list(found.numbers)])


@pytest.mark.parametrize("holder", ["tensors", "batches"])
def test_every_image_is_as_likely_as_any_other(holder: str) -> None:
    draws = 600
    counts = Counter(number for seed in range(draws) for number in sample(holders()[holder], 20, seed).numbers)
    mean = draws * 20 / N  # binomial: standard deviation √(600 · 1/3 · 2/3) = 11.5
    assert all(abs(counts[number] - mean) < 55 for number in range(N))


def test_labels_are_not_needed() -> None:
    for data in (IMAGES, TensorDataset(IMAGES), list(IMAGES.split(7)), DataLoader(IMAGES.unsqueeze(1), 7)):
        found = sample(data, 20, seed=0)
        assert found.labels is None
        assert found.classes == frozenset()
        assert len(found.images) == 20


# What is read, and kept


@pytest.mark.parametrize("cut", [None, {}, {"shuffle": True}, {"shuffle": True, "drop_last": True}])
def test_of_a_data_set_only_the_sample_is_read(cut: dict[str, Any] | None) -> None:
    dataset = Recorded()
    before = torch.random.get_rng_state()
    found = sample(dataset if cut is None else DataLoader(dataset, batch_size=8, **cut), 20, seed=3)
    assert dataset.read == list(found.numbers)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "cut", [{"sampler": SubsetRandomSampler(range(30))}, {"drop_last": True}, {"collate_fn": _stack}]
)
def test_a_loader_that_does_more_than_cut_is_read_to_its_end(cut: dict[str, Any]) -> None:
    if "collate_fn" in cut:
        cut = {"collate_fn": lambda items: (torch.stack([i for i, _ in items]), torch.tensor([n for _, n in items]))}
    dataset = Recorded()
    found = sample(DataLoader(dataset, batch_size=8, **cut), 10, seed=3)
    assert len(dataset.read) >= found.given == (30 if "sampler" in cut else 56 if "drop_last" in cut else N)


def test_of_a_stream_no_more_than_the_sample_and_a_batch_is_kept() -> None:
    alive, most = Counter(), 0

    def stream() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(200):
            array = np.random.default_rng(0).random((8, 1000), dtype=np.float32)
            alive["batches"] += 1
            weakref.finalize(array, alive.subtract, ["batches"])  # dies with the last tensor that sees its memory
            most = max(most, alive["batches"])
            batch = torch.from_numpy(array)
            del array
            yield batch
            del batch

    found = sample(stream(), 10, seed=0)
    assert found.given == 1600
    assert most <= 3
    assert found.images.untyped_storage().nbytes() == 10 * 1000 * 4


# Missing classes


@pytest.mark.slow
@pytest.mark.parametrize(("function", "recipe"), [(rb.convert, rb.OPI(timesteps=2)), (rb.quantise, rb.QVM(levels=2))])
def test_classes_that_the_data_lack_are_named_once(function: Any, recipe: rb.Recipe) -> None:
    images, labels = torch.rand(N, 2), torch.arange(N) % 7
    with pytest.warns(
        RheobaseWarning, match=r"3 of 10 classes have no calibration image \(7, 8, 9\)\. Remedy: give"
    ) as caught:
        network = function(SMALL, recipe, calibration=(images, labels))
    assert len(caught) == 1
    notes = network.notes if function is rb.quantise else network.provenance.notes
    assert [note for note in notes if "classes" in note] == [str(caught[0].message).removesuffix(".")]
    if function is rb.quantise:
        with pytest.warns(RheobaseWarning):
            snn = rb.convert(network, recipe, calibration=(images, labels))
        assert len([note for note in snn.provenance.notes if "classes" in note]) == 1


def test_rare_classes_that_only_the_sample_lacks_have_another_remedy() -> None:
    labels = torch.cat([torch.zeros(500), torch.ones(500), torch.tensor([2.0])]).long()
    for data in ((torch.rand(1001, 2), labels), [(torch.rand(1001, 2), labels)]):
        found = CalibrationData.pool(data, num_calibration_images=40, seed=1)
        assert "1 of 3 classes have no calibration image (2). Remedy: raise num_calib" in str(found.missing_classes(3))


@pytest.mark.slow
def test_what_chance_leaves_out_is_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in (torch.arange(8), torch.arange(N) % 10, torch.arange(3)):
            rb.convert(SMALL, rb.OPI(timesteps=2), calibration=(torch.rand(len(labels), 2), labels))
        rb.convert(SMALL, rb.OPI(timesteps=2), calibration=torch.rand(N, 2))
    thousand = torch.randint(1000, (1024,), generator=torch.Generator().manual_seed(0))
    assert len(set(thousand.tolist())) < 700
    assert missing_classes(thousand, range(1000)) == []
    assert len(missing_classes(thousand // 2, range(1000))) > 500
    assert missing_classes(torch.zeros(8).long(), range(10)) == list(range(1, 10))


def test_networks_whose_answer_is_no_score_a_class() -> None:
    maps = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 1))
    images, labels = torch.rand(N, 1, 4, 4), torch.arange(N) % 5
    with pytest.warns(rb.RheobaseWarning, match="ignored: labels of the calibration data"):
        snn = rb.convert(maps, rb.OPI(timesteps=2), calibration=(images, labels))
    assert len(snn.provenance.notes) == 1  # and none on missing classes


# What is refused


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([torch.zeros(3, 3), torch.zeros(2, 4)], r"mixes shapes \[3\] and \[4\]"),
        ([(torch.zeros(2, 3), torch.zeros(2)), torch.zeros(2, 3)], "has labels for some batches only"),
        ([torch.zeros(0, 3)], "is empty"),
        (TensorDataset(torch.zeros(0, 3)), "is empty"),
        ([(torch.zeros(2, 3), ["cat", "dog"])], "labels that are not numbers"),
        (torch.utils.data.ConcatDataset([TensorDataset(torch.zeros(2, n)) for n in (3, 4)]), "equal size"),
        (
            torch.utils.data.ConcatDataset([TensorDataset(*[torch.zeros(2, 3)] * n) for n in (1, 2)]),
            "cannot be batched",
        ),
    ],
)
def test_data_that_do_not_go_together(data: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"calibration data: .*{said}.*Remedy"):
        sample(data, 10, seed=0)


def test_the_image_that_is_nan_is_named_by_its_place_in_the_data() -> None:
    images = IMAGES.clone()
    images[41] = torch.nan
    for data in (images, list(images.split(7)), TensorDataset(images)):
        with pytest.raises(DataError, match="image 41 holds NaN"):
            CalibrationData.pool(data, num_calibration_images=59)


def test_numbers_may_be_numpys() -> None:
    found = CalibrationData.pool(IMAGES, num_calibration_images=np.int64(9), seed=np.int64(4))  # type: ignore[arg-type]
    assert torch.equal(found.fit, CalibrationData.pool(IMAGES, num_calibration_images=9, seed=4).fit)
    for number in (0, 2.0, True, None):
        with pytest.raises(RecipeError, match=r"num_calibration_images: is .* use a whole number from 1"):
            sample(IMAGES, number, seed=0)  # type: ignore[arg-type]
