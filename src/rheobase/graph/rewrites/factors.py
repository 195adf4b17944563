"""Move factors into weights: change the units of values in a graph without changing its output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext

Factors = Mapping[str, Tensor]


def _of_sample(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A [] or [C] factor or offset in float64, broadcastable to a sample [C, ...]."""
    return value.double().reshape(-1, *(1,) * (len(shape) - 1)) if value.dim() else value.double()


def rescale(graph: Graph, after: Factors, before: Factors, shift: Factors | None = None) -> Graph:
    """Multiply outputs of nodes by ``after`` and inputs of nodes by ``before``, by changing weights around them.

    A factor is moved into the weights of the operations after the node (``after``) or before the node (``before``),
    through operations with which it commutes (:class:`rheobase.graph.operations.Operation`). On a path without weights,
    such as an identity shortcut, the factor becomes an affine node. Computed in float64.

    Args:
        graph: without batch normalisation.
        after: node -> factor > 0, [] or [C], that multiplies the node's value for all nodes that read it.
        before: node, such as a site -> factor >= 0, [] or [C], that multiplies its first input.
        shift: node -> offset, [] or [C], that is added to its first input after multiplication.
    """
    forward = _Forward(graph, after)
    output = forward.scaled(graph.output)
    backward = _Backward(list(forward.nodes.values()), output, forward.tensors)
    for reader in graph.nodes:
        for kind, values in (("factor", before), ("offset", shift or {})):
            if reader.name in values:
                node = backward.nodes[reader.name]
                source = backward.push(node.inputs[0], kind, _of_sample(values[reader.name], reader.shape))
                backward.nodes[reader.name] = replace(node, inputs=(source, *node.inputs[1:]))
    dtype = next((t.dtype for t in graph.tensors.values() if t.is_floating_point()), torch.float32)
    changed = {name: t.to(dtype) for name, t in backward.tensors.items() if t is not forward.originals.get(name)}
    return Graph([backward.nodes[name] for name in backward.order], output, {**graph.tensors, **changed})


@dataclass(frozen=True)
class Leaf:
    """A node that takes a factor of a site's input, and the site's channel for each of its own, [C] or [1]."""

    node: str
    channels: Tensor


def leaves(graph: Graph, site: str, *, common: bool = False) -> list[Leaf]:
    """The nodes into which :func:`rescale` moves a factor before a site, such as the branches of a sum.

    The factor is one for each channel of the site, or a ``common`` one. A leaf that is not in the graph is a node that
    :func:`rescale` would insert.
    """
    backward = _Backward(list(graph.nodes), graph.output, {name: t.double() for name, t in graph.tensors.items()})
    found: list[Leaf] = []
    changed = backward.changed

    def record(node: Node, kind: str, value: Tensor) -> Mapping[str, Tensor] | None:
        parameters = changed(node, kind, value)
        if parameters is not None:
            own = value.reshape(-1)
            if value.dim() and sum(size > 1 for size in value.shape) != 1:  # else one axis, any one, has the channels
                own = value.expand(node.shape[0], *value.shape[1:]).reshape(node.shape[0], -1)[:, 0]
            found.append(Leaf(node.name, own.long() - 1))
        return parameters

    backward.changed = record  # type: ignore[method-assign]
    node = backward.nodes[site]
    numbers = torch.ones(()) if common else torch.arange(1, node.shape[0] + 1, dtype=torch.float64)
    backward.push(node.inputs[0], "factor", _of_sample(numbers, node.shape))
    known = {one.name for one in graph.nodes}
    return found + [Leaf(name, torch.zeros(1, dtype=torch.long)) for name in backward.order if name not in known]


class _Forward:
    """Moves factors after nodes into the nodes that read them. ``pending``: value in old units / value in new units."""

    def __init__(self, graph: Graph, after: Factors) -> None:
        self.originals = {name: tensor.double() for name, tensor in graph.tensors.items()}
        self.tensors = dict(self.originals)
        self.nodes: dict[str, Node] = {}
        self.pending: dict[str, Tensor | None] = {}
        for node in graph.nodes:
            passed: Tensor | None = None
            factors = [self.pending[name] for name in node.inputs]
            if any(factor is not None for factor in factors):
                node, passed = self.through(node, factors)
            self.nodes[node.name] = node
            if node.name in after:
                own = _of_sample(after[node.name], node.shape)
                passed = own if passed is None else passed * own
            self.pending[node.name] = passed

    def through(self, node: Node, factors: list[Tensor | None]) -> tuple[Node, Tensor | None]:
        """The node for inputs in new units, and the pending factor of its value."""
        operation = OPERATIONS.get(node.operation)
        if operation is not None:
            scaled = operation.scale_inputs(NodeContext.of(node, self.nodes, self.tensors), factors)
            if scaled is not None:
                return _with_tensors(node, scaled[0], self.tensors), scaled[1]
        return replace(node, inputs=tuple(map(self.scaled, node.inputs))), None

    def scaled(self, name: str) -> str:
        """Name of the node with the value in old units: an affine node if a factor is pending."""
        factor, affine = self.pending[name], f"{name}.in_old_units"
        if factor is None:
            return name
        if affine not in self.nodes:
            tensor, shape = f"{affine}.scale", self.nodes[name].shape
            self.tensors[tensor] = factor
            self.nodes[affine] = Node(affine, "affine", (name,), {}, {"scale": tensor}, shape, f"factor after {name}")
        return affine


class _Backward:
    """Moves factors and offsets (``kind``) before sites into the nodes that the sites read."""

    def __init__(self, nodes: list[Node], output: str, tensors: dict[str, Tensor]) -> None:
        self.nodes, self.tensors = {node.name: node for node in nodes}, tensors
        self.order = list(self.nodes)
        self.inserted: Counter[str] = Counter()
        self.readers = Counter([output, *(name for node in nodes for name in node.inputs)])

    def push(self, name: str, kind: str, value: Tensor) -> str:
        """Name of the node with the value in new units: the same node, or an affine node after it."""
        node = self.nodes[name]
        if self.readers[name] == 1:
            changed = self.changed(node, kind, value)
            if changed is not None:
                self.nodes[name] = _with_tensors(node, changed, self.tensors)
                return name
            before = self.before(node, value)
            if before is not None:
                inputs = list(node.inputs)
                chosen = list(range(len(inputs)))
                if kind == "offset":  # for one of the inputs, preferably one that takes it
                    chosen = [i for i in chosen if self.takes(inputs[i], before)][:1] or [0]
                for i in chosen:
                    inputs[i] = self.push(inputs[i], kind, before)
                self.nodes[name] = replace(node, inputs=tuple(inputs))
                return name
        return self.insert(node, kind, value)

    def takes(self, name: str, offset: Tensor) -> bool:
        """True if the node, or the nodes before it, can take an offset without an additional affine node."""
        node = self.nodes[name]
        if self.readers[name] != 1:
            return False
        return self.changed(node, "offset", offset) is not None or self.before(node, offset) is not None

    def changed(self, node: Node, kind: str, value: Tensor) -> Mapping[str, Tensor] | None:
        """The changed parameters of the node with the factor or offset; None if they cannot take it."""
        operation = OPERATIONS.get(node.operation)
        factor, offset = (value, None) if kind == "factor" else (None, value)
        return None if operation is None else operation.scale_output(self.context(node), factor, offset)

    def before(self, node: Node, value: Tensor) -> Tensor | None:
        """The factor or offset of the node's inputs that is equivalent to one of its output; None if none exists."""
        operation = OPERATIONS.get(node.operation)
        return None if operation is None else operation.to_inputs(self.context(node), value)

    def context(self, node: Node) -> NodeContext:
        return NodeContext.of(node, self.nodes, self.tensors)

    def insert(self, node: Node, kind: str, value: Tensor) -> str:
        """Add an affine node, executed after the node and those that were added for it before."""
        self.inserted[node.name] += 1
        number = self.inserted[node.name]
        names = (f"{node.name}.in_new_units" + (f":{n}" if n > 1 else "") for n in count(1))
        affine = next(name for name in names if name not in self.nodes)
        argument = "scale" if kind == "factor" else "shift"
        parameters, origin = {argument: f"{affine}.{argument}"}, f"factor after {node.name}"
        self.tensors[parameters[argument]] = value
        self.nodes[affine] = Node(affine, "affine", (node.name,), {}, parameters, node.shape, origin)
        self.readers[affine] = 1
        self.order.insert(self.order.index(node.name) + number, affine)
        return affine


def _with_tensors(node: Node, changed: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> Node:
    """The node with changed tensors, under names that no other call of a shared layer reads."""
    names = {argument: f"{node.name}.rescaled_{argument}" for argument in changed}
    tensors.update({names[argument]: tensor for argument, tensor in changed.items()})
    return replace(node, parameters={**node.parameters, **names})
