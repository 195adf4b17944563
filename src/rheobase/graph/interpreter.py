"""The interpreter: one loop that runs the nodes of a graph.

The analog network, the simulation step by step or layer by layer, the closed form, the differentiable simulation and
training share this loop. They differ in the input signals (:mod:`rheobase.signals.signal`), passed in ``values``, and
in the function that evaluates non-linear nodes. The graph computes affine nodes, once for a constant and at every step
for a time series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from typing import Protocol

import torch
from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, OnNumbers
from rheobase.graph.operations.lookup import Lookup
from rheobase.signals.signal import Averaged, Constant, Signal, TimeSeries, lift

Evaluate = Callable[..., Signal]
"""(node, *inputs) -> output, for a site, a max-pooling, an alignment, a lookup, or a node on numbers that reads time
series."""


class Computes(Protocol):
    """An object with the tensors of a graph, which computes affine nodes."""

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """The value of an affine node."""


Schedule = list[tuple[Node, tuple[str, ...]]]
"""Nodes in execution order, each with the names of the values to release after it."""


def schedule(nodes: Iterable[Node], keep: Iterable[str] = ()) -> Schedule:
    """Pair each node with the values to release after it: those, except ``keep``, that no later node reads."""
    nodes, keep = list(nodes), set(keep)
    last = {name: i for i, node in enumerate(nodes) for name in (*node.inputs, node.name)}
    released: list[list[str]] = [[] for _ in nodes]
    for name, i in last.items():
        if name not in keep:
            released[i].append(name)
    return [(node, tuple(names)) for node, names in zip(nodes, released, strict=True)]


def overwriting(nodes: Iterable[Node], keep: Iterable[str]) -> frozenset[str]:
    """Sums and sites that may write their result over their first input: newly allocated, and read by no other node.

    Freeing and allocating memory costs more than the arithmetic of a neuron (measured). ``nodes`` are all that run,
    ``keep`` the names of values that are read after the run.
    """
    nodes = list(nodes)
    readers = Counter(name for node in nodes for name in set(node.inputs))
    new_memory = {name for name, operation in OPERATIONS.items() if operation.makes_new_memory}
    free = {n.name for n in nodes if n.operation in new_memory and readers[n.name] == 1} - {*keep}
    writers = [n for n in nodes if n.operation in ("add", "site") and n.inputs.count(n.inputs[0]) == 1]
    return frozenset(n.name for n in writers if n.inputs[0] in free)


def run(
    graph: Computes, plan: Schedule, values: dict[str, Signal], nonlinear: Evaluate, overwriting: Container[str] = ()
) -> None:
    """Evaluate the nodes of a plan in order, reading from and writing to ``values``.

    Args:
        graph: computes affine nodes, and nodes on numbers that read constants.
        plan: nodes with the values to release after each (:func:`schedule`).
        values: node -> its signal; changed in place.
        nonlinear: evaluates the other nodes.
        overwriting: sums that may be written over their first term (:func:`overwriting`).
    """
    for node, released in plan:
        inputs = [values[name] for name in node.inputs]
        if node.operation == "add" and node.name in overwriting:
            values[node.name] = _add_over(*inputs)
        elif _is_stateless(node, inputs):
            values[node.name] = graph.compute(node, *inputs)
        else:
            values[node.name] = nonlinear(node, *map(_not_reduced, inputs))
        for name in released:
            del values[name]


def _is_stateless(node: Node, inputs: Iterable[Signal]) -> bool:
    """True if the value at a step depends on the inputs at this step alone: an affine node, or one of constants.

    A lookup depends on the number of steps that its input is a sum over, also if it reads a constant.
    """
    operation = OPERATIONS.get(node.operation)
    if isinstance(operation, OnNumbers):
        return not isinstance(operation, Lookup) and all(isinstance(signal, Constant) for signal in inputs)
    return operation is not None and operation.affine


def _not_reduced(signal: Signal) -> Signal:
    """The signal in float32, if ``torch.autocast`` has computed it in less: potentials and levels need all bits."""
    reduced = signal.values.dtype in (torch.float16, torch.bfloat16)
    if reduced and torch.is_autocast_enabled(signal.values.device.type):
        return lift(Tensor.float, signal)
    return signal


def _add_over(*inputs: Signal) -> Signal:
    """The sum of the inputs, written over the first; a new tensor if their numbers of steps differ."""
    first, *rest = inputs
    steps = {signal.steps for signal in inputs if isinstance(signal, TimeSeries)}
    if len(steps) > 1 or (steps and isinstance(first, Constant)) or isinstance(first, Averaged):
        return lift(OPERATIONS["add"].apply, *inputs)
    for signal in rest:
        first.values.add_(signal.values)
    return first
