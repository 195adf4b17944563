"""Remove a final softmax, log-softmax or sigmoid: the logits have the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rheobase.graph.node import Node

_ELEMENTWISE = ("sigmoid", "log_sigmoid", "log_sigmoid_forward")
_NORMALISED = ("softmax", "_softmax", "log_softmax", "_log_softmax")
_MOVES = ("reshape", "permute", "outputs")
_SELECTS = ("slice", "select", "concat")
"""Further moves after an elementwise function; of a softmax they would change the order over classes or images."""


def without_final_activations(
    nodes: Sequence[Node], output: str, calls: Mapping[str, str]
) -> tuple[list[Node], str, list[str]]:
    """Remove monotone functions that only operations without arithmetic follow, up to the output.

    The order of the outputs must be that of the logits. So a concatenation must join the same function only, and a
    softmax must keep its axes: its order over images, or over the classes of two of them, is not that of the logits.

    Args:
        nodes: the nodes that the output depends on.
        output: name of the output node.
        calls: node -> name of its call, for refused nodes with one input.

    Returns:
        The nodes without those functions, the name of the output node, and the names of the removed nodes.
    """
    readers: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            readers[name].append(node)

    def final(node: Node, moves: tuple[str, ...]) -> bool:
        after = readers[node.name]
        if node.name == output:
            return not after
        return bool(after) and all(keeps(node, one, moves) and final(one, moves) for one in after)

    def keeps(node: Node, after: Node, moves: tuple[str, ...]) -> bool:
        """True if the order of the values of a node is that of its function's input, as far as ``after`` matters."""
        if after.operation == "concat" and len({calls.get(name) for name in after.inputs}) > 1:
            return False
        if after.operation == "reshape" and moves is _MOVES:
            return [n for n in node.shape if n > 1] == [n for n in after.shape if n > 1]
        return after.operation in moves

    removed: dict[str, str] = {}
    for node in nodes:
        call = calls.get(node.name)
        moves = _MOVES if call in _NORMALISED else (*_MOVES, *_SELECTS)
        if call in (*_ELEMENTWISE, *_NORMALISED) and final(node, moves):
            removed[node.name] = node.inputs[0]

    def source(name: str) -> str:
        while name in removed:
            name = removed[name]
        return name

    kept = [replace(n, inputs=tuple(map(source, n.inputs))) for n in nodes if n.name not in removed]
    return kept, source(output), list(removed)
