"""Exact statistics of batch normalisation: means over batches in place of running means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rheobase.graph.trainable import TrainableGraph


def normalising(network: nn.Module) -> list[Any]:
    """The modules of a network that keep running statistics; each has a ``momentum``."""
    return [
        part
        for part in network.modules()
        if (isinstance(part, _BatchNorm) and part.track_running_stats)
        or (isinstance(part, TrainableGraph) and any(node.operation == "batch_norm" for node in part.nodes))
    ]


@torch.no_grad()
def average_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make the running statistics means over all batches; the network is then in train mode.

    With the momentum 1/k at batch k, m <- m + (x - m)/k is the mean over the batches so far; earlier statistics are
    discarded. ``torch.optim.swa_utils.update_bn`` does this for modules, but not for a ``TrainableGraph``.
    """
    parts = normalising(network.train())
    before = [part.momentum for part in parts]
    try:
        for k, images in enumerate(batches, 1):
            for part in parts:
                part.momentum = 1 / k
            network(images)
    finally:
        for part, momentum in zip(parts, before, strict=True):
            part.momentum = momentum
