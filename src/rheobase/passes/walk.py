"""Execution node by node on time-means, all images together, with a stop at each site."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import Nonlinear, run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.signals.signal import Constant, Signal

SUB_BATCH = 32

SubBatches = list[Tensor]
"""A value for all images, in sub-batches."""


class Walk:
    """Execution of a network on time-means: one with closed-form sites, or the analog network.

    Alternate :meth:`to_site` and :meth:`emit`, then call :meth:`finish`. Nothing is computed twice, so fitting all
    sites one after the other costs one forward pass.

    Args:
        graph: structure and tensors of the network.
        images: [N, ...].
        before: called with the graph, a node and its input before the node runs; returns the graph to continue with,
            which may have other tensors.
    """

    def __init__(
        self, graph: Graph, images: Tensor, before: Callable[[Graph, Node, SubBatches], Graph] | None = None
    ) -> None:
        self.graph, self.before = graph, before
        self._plan = schedule(graph.nodes[1:], keep={graph.output})
        name = graph.nodes[0].name
        self._values: list[dict[str, Signal]] = [
            {name: Constant(in_memory_format(part.to(graph.device)))} for part in images.split(SUB_BATCH)
        ]
        self._next = 0

    @torch.no_grad()
    def to_site(self) -> tuple[Node, SubBatches]:
        """Run up to the next site, and return its node and its current."""
        node = self._run()
        assert node is not None, "there is no further site"
        return node, self._inputs(node)

    @torch.no_grad()
    def emit(self, emitted: SubBatches) -> None:
        """Set the output of the present site."""
        given = iter(emitted)
        self._advance(lambda node, signal: Constant(next(given)))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Run the readout, and return the output, [N, ...]."""
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

    def _inputs(self, node: Node) -> SubBatches:
        return [values[node.inputs[0]].mean() for values in self._values]

    def _advance(self, nonlinear: Nonlinear) -> None:
        for values in self._values:
            run(self.graph, self._plan[self._next : self._next + 1], values, nonlinear)
        self._next += 1


def channel_mean(sub_batches: SubBatches) -> Tensor:
    """Mean over images and positions, [C], float64."""
    total = sum(
        sub_batch.sum([d for d in range(sub_batch.dim()) if d != 1], dtype=torch.float64) for sub_batch in sub_batches
    )
    assert isinstance(total, Tensor)
    return total * total.numel() / sum(x.numel() for x in sub_batches)
