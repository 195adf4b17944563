"""What the families share: checks of their arguments, pooling, initial weights."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import nn

from rheobase.core.errors import ModelError

Stem = Literal["cifar", "imagenet"]
Pool = Literal["average", "max"]


def check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number from 1.

    Raises:
        ModelError: naming the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"is {value!r}", where=name, remedy="use a whole number from 1")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse what is not among the ``choices``, a ``Literal``.

    Raises:
        ModelError: naming the argument and what it can be.
    """
    if value not in get_args(choices):
        raise ModelError(f"is {value!r}", where=name, remedy=f"use one of {', '.join(get_args(choices))}")


def pooling(pool: Pool, kernel_size: int, stride: int, padding: int = 0) -> nn.Module:
    """Average or maximum over a window."""
    kind = nn.AvgPool2d if pool == "average" else nn.MaxPool2d
    return kind(kernel_size, stride=stride, padding=padding)


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers by He et al. 2015, Eq. 10: variance 2 / fan-in."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
