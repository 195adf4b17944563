"""Exact statistics of batch normalisation: means over batches in place of running means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
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


@contextmanager
def averaging(network: nn.Module) -> Iterator[Iterator[None]]:
    """Context in which running statistics become means over all batches; advance the iterator before each batch.

    With the momentum 1/k at batch k, m <- m + (x - m)/k is the mean over the batches so far; earlier statistics are
    discarded.
    """
    parts = normalising(network)
    before = [part.momentum for part in parts]

    def batches() -> Iterator[None]:
        k = 0
        while True:
            k += 1
            for part in parts:
                part.momentum = 1 / k
            yield

    try:
        yield batches()
    finally:
        for part, momentum in zip(parts, before, strict=True):
            part.momentum = momentum
