"""The interpreter: the one loop that runs the nodes of a graph.

The analog network, the simulation step by step or layer by layer, the closed form, the differentiable simulation and
training differ in what flows on the edges (:mod:`rheobase.signals.signal`) and in what a site makes of it. The first is
what the caller puts into ``values``, the second is a hook; the loop is the same. What is affine is computed by the
graph, on a constant once and on a time series at every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from typing import Protocol

from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.signals.signal import Constant, Signal, TimeSeries, lift

Nonlinear = Callable[[Node, Signal], Signal]
"""What a site, a max-pooling or an alignment makes of its input."""


class Computes(Protocol):
    """What holds the tensors of a graph."""

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """The value of an affine node."""


Schedule = list[tuple[Node, tuple[str, ...]]]


def schedule(nodes: Iterable[Node], keep: Iterable[str] = ()) -> Schedule:
    """Pair each node with the values that nobody needs after it, so that memory is given back early."""
    nodes, keep = list(nodes), set(keep)
    last = {name: i for i, node in enumerate(nodes) for name in (*node.inputs, node.name)}
    released: list[list[str]] = [[] for _ in nodes]
    for name, i in last.items():
        if name not in keep:
            released[i].append(name)
    return [(node, tuple(names)) for node, names in zip(nodes, released, strict=True)]


def overwriting(nodes: Iterable[Node], keep: Iterable[str]) -> frozenset[str]:
    """Nodes that may write their result over their first input: new memory, which only they read.

    Memory that is freed and taken again costs more than the arithmetic of a neuron (measured).

    Args:
        nodes: all that are run.
        keep: names of values that somebody reads afterwards.
    """
    nodes = list(nodes)
    readers = Counter(name for node in nodes for name in set(node.inputs))
    new_memory = {name for name, operation in OPERATIONS.items() if operation.makes_new_memory}
    free = {n.name for n in nodes if n.operation in new_memory and readers[n.name] == 1} - {*keep}
    return frozenset(
        n.name
        for n in nodes
        if n.operation in ("add", "site") and n.inputs[0] in free and n.inputs.count(n.inputs[0]) == 1
    )


def run(
    graph: Computes,
    plan: Schedule,
    values: dict[str, Signal],
    nonlinear: Nonlinear,
    overwriting: Container[str] = (),
) -> None:
    """Evaluate the nodes of a plan in order, reading from and writing to ``values``.

    Args:
        graph: holds the tensors.
        plan: what to do.
        values: signals by the name of the node that they come from.
        nonlinear: what to do at sites and max-pooling.
        overwriting: sums that may be written over their first term (:func:`overwriting`), where nobody else has that
            signal.
    """
    for node, released in plan:
        inputs = [values[name] for name in node.inputs]
        if node.operation == "add" and node.name in overwriting:
            values[node.name] = _add_over(*inputs)
        elif (operation := OPERATIONS.get(node.operation)) is not None and operation.affine:
            values[node.name] = graph.compute(node, *inputs)
        else:
            values[node.name] = nonlinear(node, *inputs)
        for name in released:
            del values[name]


def _add_over(*inputs: Signal) -> Signal:
    """The sum of the inputs, written over the first; as an ``add`` node otherwise."""
    first, *rest = inputs
    steps = {signal.steps for signal in inputs if isinstance(signal, TimeSeries)}
    if len(steps) > 1 or (steps and isinstance(first, Constant)):
        return lift(OPERATIONS["add"].apply, *inputs)
    for signal in rest:
        first.values.add_(signal.values)
    return first
