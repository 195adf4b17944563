"""Move the channels to axis 1 at every site."""

from __future__ import annotations

from dataclasses import replace

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext
from rheobase.graph.trace.call import Note


def channels_first(graph: Graph) -> tuple[Graph, list[Note]]:
    """Permute the current of every site whose channels are not axis 1, and permute its output back.

    Neurons, thresholds and passes expect the channels of a site [B, C, ...] at axis 1. In a network of tokens
    [B, N, C], the channels are the last axis. Each operation declares the axis of its output that holds the channels
    (:meth:`rheobase.graph.operations.Operation.channel_axis`); in the network's input it is axis 1. A site that was
    trained with one threshold per channel is not permuted, since its thresholds are along axis 1 already.

    Returns:
        The graph, unchanged if no site is permuted, and a note for each permuted site.
    """
    axes: dict[str, int | None] = {graph.nodes[0].name: 1}
    by_name, tensors = {node.name: node for node in graph.nodes}, graph.tensors
    for node in graph.nodes[1:]:
        inputs = [axes[name] for name in node.inputs]
        operation = OPERATIONS.get(node.operation)  # None: a site or a refused call
        context = NodeContext.of(node, by_name, tensors)
        axes[node.name] = operation.channel_axis(context, inputs) if operation else next(iter(inputs), None)
    nodes: list[Node] = []
    notes: list[Note] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        axis = axes[node.name]
        trained = any(graph.tensor(name).dim() for name in node.parameters.values())
        if node.operation != "site" or axis in (None, 1) or trained:
            nodes.append(node)
            continue
        before, after = f"{node.name}.channels_first", f"{node.name}.channels_back"
        order = [0, axis, *(i for i in range(1, len(node.shape) + 1) if i != axis)]
        back = [order.index(i) for i in range(len(order))]
        shape = tuple(node.shape[i - 1] for i in order[1:])
        nodes += [
            Node(before, "permute", node.inputs, {"dims": order}, {}, shape, node.origin),
            replace(node, inputs=(before,), shape=shape),
            Node(after, "permute", (node.name,), {"dims": back}, {}, node.shape, node.origin),
        ]
        renamed[node.name] = after
        text = f"has its channels at axis {axis}; they are permuted to axis 1 for the neurons, and back"
        notes.append(Note(node.origin, text))
    if not notes:
        return graph, []
    dropout = {renamed.get(name, name): dropped for name, dropped in graph.dropout.items()}
    return graph.replace(nodes=nodes, output=renamed.get(graph.output, graph.output), dropout=dropout), notes
