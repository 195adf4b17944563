"""Sum pooling in place of mean pooling: the division becomes part of the weights that follow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext
from rheobase.graph.operations.windows import MeanPool


def sum_pools(
    graph: Graph, refusing: Callable[[Node], AbstractContextManager[object]]
) -> tuple[Graph, dict[str, Tensor]]:
    """Replace mean pooling by sum pooling (``divisor_override=1``); return the graph and the missing factors.

    ``refusing``: context of a node, which turns :class:`NotExpressible` (windows that differ) into the caller's error.
    """
    nodes, factors = [], {}
    by_name = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        operation = OPERATIONS.get(node.operation)
        if not isinstance(operation, MeanPool):
            nodes.append(node)
            continue
        with refusing(node):
            kernel, stride, padding, divisor = operation.window(NodeContext.of(node, by_name, graph.tensors))
        attributes = {"kernel_size": kernel, "stride": stride, "padding": padding, "divisor_override": 1}
        flat = len(node.shape) == 1  # the spatial axes are reduced
        shape = (node.shape[0], *(1 for _ in kernel)) if flat else node.shape
        name = f"{node.name}.sum" if flat else node.name
        nodes.append(Node(name, "avg_pool", node.inputs, attributes, {}, shape, node.origin))
        if flat:
            nodes.append(Node(node.name, "reshape", (name,), {"shape": list(node.shape)}, {}, node.shape, node.origin))
        factors[name] = torch.tensor(1 / divisor, dtype=torch.float64, device=graph.device)
    return graph.replace(nodes=nodes), factors
