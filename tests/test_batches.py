"""A batch is what loaders yield: a tensor, a tuple or list, or a dictionary."""

from __future__ import annotations

import itertools
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import rheobase as rb
from rheobase.core.errors import DataError
from rheobase.data.batches import IMAGE_FIELDS, LABEL_FIELDS, batches, count
from rheobase.data.sampling import sample
from rheobase.data.sources import read

IMAGES, LABELS = torch.arange(48.0).view(12, 1, 2, 2), torch.arange(12) % 3

FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "longer": lambda x, y: [x, y, torch.arange(len(x))],
    "longer tuple": lambda x, y: (x, y, ["name"] * len(x)),
    "dictionary": lambda x, y: {"image": x, "label": y},
    "other fields": lambda x, y: UserDict({"index": y, "pixel_values": x, "Targets": y}),
    "list of numbers": lambda x, y: [x, y.tolist()],
    "numpy": lambda x, y: [x.numpy(), y.numpy()],
}


class Items(Dataset[Any]):
    """A data set of dictionaries, as of Hugging Face."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"img": IMAGES[index], "label": LABELS[index]}


class Table:
    """What is asked of a data set of Hugging Face."""

    column_names = ("img", "label")

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return Items()[index]


def everything(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches(data, where="data"), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whole", [True, False], ids=["one batch", "batches"])
def test_every_form_gives_the_same_images_and_labels(form: str, whole: bool) -> None:
    cut = [FORMS[form](IMAGES[i : i + 5], LABELS[i : i + 5]) for i in (0, 5, 10)]
    data = FORMS[form](IMAGES, LABELS) if whole else cut
    for found in (everything(data), (sample(data, 99, 0).images, sample(data, 99, 0).labels)):
        assert torch.equal(found[0], IMAGES)
        assert torch.equal(found[1], LABELS)  # type: ignore[arg-type]
    assert count(data, 5) == 3
    assert read(data, where="data", workers=0).labelled


@pytest.mark.parametrize(
    "dataset", [TensorDataset(IMAGES, LABELS), Items(), Table()], ids=["list", "dictionary", "table"]
)
def test_the_first_batch_of_a_loader_is_a_pair(dataset: Any) -> None:
    first = next(iter(DataLoader(dataset, batch_size=5)))
    assert torch.equal(everything(first)[0], IMAGES[:5])
    assert torch.equal(everything(first)[1], LABELS[:5])
    assert torch.equal(everything(DataLoader(dataset, batch_size=5))[0], IMAGES)
    assert sample(dataset, 4, 0).given == 12


@given(
    st.sampled_from([(3, 4, 4), (4, 4), (6,)]),
    st.sampled_from(["classes", "several labels", "numbers", "maps", "masks"]),
    st.integers(1, 5),
)
def test_a_list_of_images_and_targets_is_one_batch_and_two_of_images_are_two(
    shape: tuple[int, ...], kind: str, number: int
) -> None:
    images = torch.zeros(number, *shape)
    targets = {
        "classes": torch.zeros(number, dtype=torch.long),
        "several labels": torch.zeros(number, shape[0] + 1),
        "numbers": torch.zeros(number),
        "maps": torch.zeros(number, *shape[1:], dtype=torch.long),
        "masks": torch.zeros(number, shape[0] + 1, *shape[1:]),
    }[kind]
    assert [len(part) for part, _ in batches([images, targets], where="data")] == [number]
    assert [len(part) for part, _ in batches([images, images[:1]], where="data")] == [number, 1]
    assert [labels for _, labels in batches([images, images], where="data")] == [None, None]


@pytest.mark.parametrize(("x", "y"), [*itertools.product(IMAGE_FIELDS, LABEL_FIELDS)])
def test_names_of_fields(x: str, y: str) -> None:
    found = everything({y: LABELS, "id": LABELS, x.upper(): IMAGES})
    assert torch.equal(found[0], IMAGES)
    assert torch.equal(found[1], LABELS)
    assert next(batches({x: IMAGES}, where="data"))[1] is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"image": IMAGES, "x": IMAGES}, "the fields image and x for images"),
        ({"image": IMAGES, "label": LABELS, "target": LABELS}, "the fields label and target for labels"),
        ([{"frames": IMAGES, "label": LABELS}], r"no field for images \(fields: frames, label\)"),
        ({"image": IMAGES, "label": LABELS[:2]}, "has 12 images but 2 labels"),
        ({"image": "a.png"}, "yields str"),
        ([IMAGES, ["cat"] * 12], "labels that are not numbers"),
        ([IMAGES, LABELS[:3]], "has 12 images but 3 labels"),
    ],
)
def test_batches_that_are_none(data: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"{said}.*Remedy"):
        list(batches(data, where="data"))


@pytest.mark.slow
def test_every_function_takes_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    loader = DataLoader(Items(), batch_size=6)
    whole = rb.convert(net, rb.RateCoding(timesteps=2), calibration=(IMAGES, LABELS))
    snn = rb.convert(net, rb.RateCoding(timesteps=2), calibration=loader)
    assert torch.equal(snn(IMAGES), whole(IMAGES))
    assert rb.evaluate(snn, loader) == rb.evaluate(snn, (IMAGES, LABELS))
    assert rb.evaluate(snn, next(iter(loader))) == rb.evaluate(snn, (IMAGES[:6], LABELS[:6]))
    assert rb.diagnose(snn, {"image": IMAGES}).rows == rb.diagnose(snn, IMAGES).rows
    trained = rb.train(net, loader, rb.Training(epochs=1, learning_rate=0.01, batch_size=6), validation=None)
    assert trained.history[0].train_accuracy is not None
    assert np.isfinite(trained.history[0].train_loss)
