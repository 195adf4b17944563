"""Checks of the input images."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.core.errors import DataError, ModelError
from rheobase.graph.graph import Graph


def check_one_output(graph: Graph, what: str) -> None:
    """Refuse a network with several outputs for ``what``, which needs one.

    Raises:
        ModelError: if the graph joins several outputs.
    """
    if graph.structure is not None:
        reason = f"has several outputs ({', '.join(graph.structure.shapes)}), and {what} needs one"
        raise ModelError(reason, where="network", remedy='choose one with output="name" instead of output="all"')


def check_input(graph: Graph, images: Tensor) -> None:
    """Refuse images that do not fit the network.

    Raises:
        DataError: if they have another shape or dtype, or contain NaN or infinite values.
    """
    if not isinstance(images, Tensor):
        reason = f"must be a tensor, not {type(images).__name__}"
        raise DataError.typed(reason, where="images", remedy="pass a tensor [batch, ...]")
    where, shape, expected = "images", list(images.shape[1:]), list(graph.input_shape)
    if shape != expected:
        reason = f"have shape {shape}, the network was converted for {expected}"
        remedy = "resize or crop them, or convert again with an example of this size"
        if len(shape) == len(expected) and shape[1:] == expected[1:]:
            channels = "1 channel (--grayscale on the command line)" if expected[0] == 1 else f"{expected[0]} channels"
            remedy = f"give images of {channels}, or convert again with an example of this shape"
    elif not images.is_floating_point():
        reason, remedy = f"have dtype {images.dtype}", "convert to float and normalise as in training"
    elif images.dtype != graph.dtype:
        reason = f"have dtype {images.dtype}, the network computes in {graph.dtype}"
        remedy = f"convert one of them, for example images.to({graph.dtype})"
    # a finite sum implies finite values, and is much cheaper than a test of each value; huge values need that test
    elif not bool(torch.isfinite(images.sum())) and not bool(torch.isfinite(images).all()):
        where = f"image {int((~torch.isfinite(images)).flatten(1).any(1).nonzero()[0])} of the batch"
        reason, remedy = "contains NaN or infinite values", "check how images are loaded"
    else:
        return
    raise DataError(reason, where=where, remedy=remedy)
