"""A network gone through node by node, all images at once: each site is met when everything before it is done."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import Nonlinear, run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.signals.signal import Constant, Signal

PIECE = 32

Pieces = list[Tensor]
"""A value for all images, cut along the batch."""


class Walk:
    """On time-means: a network whose sites are closed forms, or the analog network.

    Alternate :meth:`to_site` and :meth:`emit`, then :meth:`finish`. What has been computed is not computed again, so
    sites that are fitted one after the other cost one pass in all.

    Args:
        graph: its structure and tensors.
        images: [N, ...].
        before: called with a node and its input before the node runs; the graph to go on with, the same one or one with
            other tensors.
    """

    def __init__(
        self, graph: Graph, images: Tensor, before: Callable[[Graph, Node, Pieces], Graph] | None = None
    ) -> None:
        self.graph, self.before = graph, before
        self._plan = schedule(graph.nodes[1:], keep={graph.output})
        name = graph.nodes[0].name
        self._values: list[dict[str, Signal]] = [
            {name: Constant(in_memory_format(part.to(graph.device)))} for part in images.split(PIECE)
        ]
        self._next = 0

    @torch.no_grad()
    def to_site(self) -> tuple[Node, Pieces]:
        """Run up to the next site; it and its current."""
        node = self._run()
        assert node is not None, "there is no further site"
        return node, self._inputs(node)

    @torch.no_grad()
    def emit(self, emitted: Pieces) -> None:
        """Set what the site at hand emits."""
        given = iter(emitted)
        self._advance(lambda node, signal: Constant(next(given)))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Run what comes after the last site: the output, [N, ...]."""
        assert self._run() is None, "there are further sites"
        return torch.cat([values[self.graph.output].mean() for values in self._values])

    def _run(self) -> Node | None:
        while self._next < len(self._plan):
            node, _ = self._plan[self._next]
            if node.operation == "site":
                return node
            if self.before is not None:
                self.graph = self.before(self.graph, node, self._inputs(node) if node.inputs else [])
            self._advance(self.graph.analog)
        return None

    def _inputs(self, node: Node) -> Pieces:
        return [values[node.inputs[0]].mean() for values in self._values]

    def _advance(self, nonlinear: Nonlinear) -> None:
        for values in self._values:
            run(self.graph, self._plan[self._next : self._next + 1], values, nonlinear)
        self._next += 1


def channel_mean(pieces: Pieces) -> Tensor:
    """Mean over images and places, [C], float64."""
    total = sum(piece.sum([d for d in range(piece.dim()) if d != 1], dtype=torch.float64) for piece in pieces)
    assert isinstance(total, Tensor)
    return total * total.numel() / sum(piece.numel() for piece in pieces)
