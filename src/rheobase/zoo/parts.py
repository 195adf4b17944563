"""Pooling and initial weights of all networks."""

from __future__ import annotations

from typing import Literal

from torch import nn

Stem = Literal["cifar", "imagenet"]
Pool = Literal["average", "max"]


def pooling(pool: Pool, kernel_size: int, stride: int, padding: int = 0) -> nn.Module:
    """Average or max-pooling."""
    kind = nn.AvgPool2d if pool == "average" else nn.MaxPool2d
    return kind(kernel_size, stride=stride, padding=padding)


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers by He et al. 2015, Eq. 10: variance 2 / fan-in."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
