"""The interface with which operations write NIR nodes; the exporter implements it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.node import Node


class NotExpressible(Exception):
    """NIR has no node for an operation; the argument is the reason as a clause ("is an upsampling")."""


@dataclass(frozen=True)
class Value:
    """A value of the graph: the sum of NIR nodes, with a pending map of channels that is not written yet.

    Attributes:
        sources: names of the NIR nodes.
        shape: shape of a sample, [C, ...].
        matrix: matrix of the map, [C, C of the sources], float64; None: no map.
        shift: offset after the map, [C]; None: 0.
        stride: stride of the map along the spatial axes.
        view: shape in the graph if the channels are split into several axes; (): ``shape``.
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    matrix: Tensor | None = None
    shift: Tensor | None = None
    stride: tuple[int, ...] = ()
    view: tuple[int, ...] = ()

    def mapped(self) -> Value:
        """The value with a map, the identity if it has none."""
        if self.matrix is not None:
            return self
        identity = torch.eye(self.shape[0], dtype=torch.float64)
        return replace(self, matrix=identity, stride=(1,) * (len(self.shape) - 1))

    def select(self, channels: Tensor | slice) -> Value:
        """Select channels, in the given order."""
        return self._rows(lambda rows: rows[channels])

    def place(self, before: int, after: int) -> Value:
        """Pad the channels with ``before`` and ``after`` channels of zeros."""
        return self._rows(lambda rows: F.pad(rows.movedim(0, -1), (before, after)).movedim(-1, 0))

    def _rows(self, changed: Callable[[Tensor], Tensor]) -> Value:
        value = self.mapped()
        assert value.matrix is not None
        matrix, shift = changed(value.matrix), None if value.shift is None else changed(value.shift)
        return replace(value, shape=(len(matrix), *value.shape[1:]), matrix=matrix, shift=shift)

    def scale(self, scale: Tensor | None, shift: Tensor | None) -> Value:
        """Multiply by ``scale`` [C] and add ``shift`` [C]."""
        value = self.mapped()
        assert value.matrix is not None
        total = torch.zeros(value.shape[0], dtype=torch.float64) if value.shift is None else value.shift
        total = total if scale is None else scale * total
        total = total if shift is None else total + shift
        matrix = value.matrix if scale is None else scale.unsqueeze(-1) * value.matrix
        return replace(value, matrix=matrix, shift=total)


class Words(Protocol):
    """Writes NIR nodes; ``i`` is the index of an input of the node.

    All methods but :meth:`seen` raise NotExpressible if the channels of an input are split into several axes.
    """

    def plain(self, node: Node, i: int = 0) -> Value:
        """Return an input without a map: a pending map is written first."""

    def mapped(self, node: Node, i: int = 0) -> Value:
        """Return an input with a map of channels."""

    def seen(self, node: Node, i: int = 0) -> Value:
        """Return an input, whose channels may be split into several axes."""

    def parameter(self, node: Node, argument: str) -> Tensor | None:
        """Return a parameter of a node, or None."""

    def convolution(self, node: Node) -> Value:
        """Write a convolution with the attributes and parameters of ``conv``."""

    def affine(self, node: Node) -> Value:
        """Write a matrix product with the parameters of ``linear``."""

    def sum_pool(self, node: Node) -> Value:
        """Write sums over windows with the attributes of ``avg_pool``."""

    def flatten(self, node: Node) -> Value:
        """Write a flattening."""

    def sum(self, node: Node) -> Value:
        """Return the sum of all inputs."""

    def write(self, name: str, value: Value, padding: Sequence[int] | None = None) -> Value:
        """Write the map of a value: a 1x1 convolution, padded along each spatial axis, or a matrix product."""
