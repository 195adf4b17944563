"""Stand-ins for torchvision and Hugging Face's datasets, with the interface that the guides use and no download."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rheobase.core.torchvision import repair_torchvision

PIXELS = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
LABELS = [i % 10 for i in range(len(PIXELS))]


class ToTensor:
    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


class Normalize:
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class Compose:
    def __init__(self, transforms: list[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class CIFAR10(Dataset[Any]):
    """As of torchvision: items are (image, class)."""

    def __init__(self, root: str, train: bool = True, transform: Any = None, download: bool = False) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(PIXELS[index])), LABELS[index]


class Table:
    """As of Hugging Face: not a data set of torch; the transform takes and returns columns of several rows."""

    column_names = ("img", "label")

    def __init__(self, transform: Any = None) -> None:
        self.transform = transform

    def with_transform(self, transform: Any) -> Table:
        return Table(transform)

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows = self.transform({"img": [Image.fromarray(PIXELS[index])], "label": [LABELS[index]]})
        return {name: column[0] for name, column in rows.items()}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins in the place of the packages for one test, also of installed ones, which would download."""
    repair_torchvision()
    importlib.import_module("torchmetrics")  # it imports modules of an installed torchvision that the stand-in lacks
    torchvision, transforms, sets, datasets = map(ModuleType, ("torchvision", "transforms", "sets", "datasets"))
    torchvision.transforms, torchvision.datasets = transforms, sets  # type: ignore[attr-defined]
    transforms.ToTensor, transforms.Normalize, transforms.Compose = ToTensor, Normalize, Compose  # type: ignore[attr-defined]
    sets.CIFAR10 = CIFAR10  # type: ignore[attr-defined]
    datasets.load_dataset = lambda name, split: Table()  # type: ignore[attr-defined]
    for module in (torchvision, datasets):
        module.__spec__ = ModuleSpec(module.__name__, None)  # else find_spec fails in other packages
        monkeypatch.setitem(sys.modules, module.__name__, module)
