"""Handwritten digits and a small residual network, for the demonstration and the guides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rheobase.core.progress import track
from rheobase.zoo.resnet import BasicBlock

SPLIT_SEED = 0
TRAIN, VALIDATION = 1097, 300

Pair = tuple[Tensor, Tensor]


class Digits(NamedTuple):
    """Three data sets of handwritten digits: float32 images [N, 1, 8, 8] in 0..1 and labels [N]."""

    train: Pair
    validation: Pair
    test: Pair


def digits() -> Digits:
    """The digits of scikit-learn, in a fixed split: 1097 to train, 300 to validate, 400 to test."""
    from sklearn.datasets import load_digits  # takes a second, and the network alone does not need it

    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(classes).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    sizes = [TRAIN, VALIDATION, len(images) - TRAIN - VALIDATION]
    return Digits(*((images[part], labels[part]) for part in order.split(sizes)))


def digits_train() -> Pair:
    """The training images, for ``--data rheobase.zoo.digits:digits_train``."""
    return digits().train


def digits_validation() -> Pair:
    """The validation images, for ``--validation rheobase.zoo.digits:digits_validation``."""
    return digits().validation


def digits_test() -> Pair:
    """The test images, for ``--data rheobase.zoo.digits:digits_test``."""
    return digits().test


class DigitsResNet(nn.Module):
    """A small residual network for 8×8 digits: stem, two blocks of 16 and 32 channels, average pool, classifier.

    Example:
        >>> DigitsResNet().eval()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block1 = BasicBlock(16, 16, 1, "B")
        self.block2 = BasicBlock(16, 32, 2, "B")
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        out = self.block2(self.block1(F.relu(self.bn(self.conv(x)))))
        return self.linear(out.mean((2, 3)))


def train(data: Pair, epochs: int, seed: int, progress: bool = False) -> nn.Module:
    """Train a :class:`DigitsResNet`; the result is determined by the seed."""
    images, labels = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsResNet()
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        batches = -(-len(images) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=epochs * batches)
        for _ in track(range(epochs), "training", show=progress):
            for part in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(model(images[part]), labels[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return model.eval()
