"""Options and initial weights of all networks."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

Stem = Literal["cifar", "imagenet"]
Pool = Literal["average", "max"]
POOLS: dict[Pool, Any] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers by He et al. 2015, Eq. 10: variance 2 / fan-in."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def normalisation(channels: int, batch_norm: bool) -> nn.Module:
    """Batch normalisation, or nothing in a network without."""
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
