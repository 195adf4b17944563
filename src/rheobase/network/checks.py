"""Checks of the input images."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.core.errors import DataError
from rheobase.graph.graph import Graph


def check_input(graph: Graph, images: Tensor) -> None:
    """Refuse images that do not fit the network.

    Raises:
        DataError: if they have another shape or dtype, or contain NaN or infinite values.
    """
    expected = graph.input_shape
    if not isinstance(images, Tensor):
        raise DataError.typed(
            f"must be a tensor, not {type(images).__name__}", where="images", remedy="pass a tensor [batch, ...]"
        )
    if tuple(images.shape[1:]) != expected:
        raise DataError(
            f"have shape {list(images.shape[1:])}, the network was converted for {list(expected)}",
            where="images",
            remedy="resize or crop them, or convert again with an example of this size",
        )
    if not images.is_floating_point():
        raise DataError(
            f"have dtype {images.dtype}",
            where="images",
            remedy="convert to float and normalise as in training",
        )
    if images.dtype != graph.dtype:
        raise DataError(
            f"have dtype {images.dtype}, the network computes in {graph.dtype}",
            where="images",
            remedy=f"convert one of them, for example images.to({graph.dtype})",
        )
    # a finite sum implies finite values, and is much cheaper than a test of each value; huge values need that test
    if not bool(torch.isfinite(images.sum())) and not bool(torch.isfinite(images).all()):
        first = int((~torch.isfinite(images)).flatten(1).any(1).nonzero()[0])
        raise DataError(
            "contains NaN or infinite values", where=f"image {first} of the batch", remedy="check how images are loaded"
        )
