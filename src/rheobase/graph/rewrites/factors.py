"""Move factors into weights: change the units of values in a graph without changing its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
    """Multiply outputs of nodes by ``after`` and inputs of sites by ``before``, by changing weights around them.

    A factor is moved into the weights of the operations after the node (``after``) or before the site (``before``),
    through operations with which it commutes (:class:`rheobase.graph.operations.Operation`). On a path without weights,
    such as an identity shortcut, the factor becomes an affine node. Computed in float64.

    Args:
        graph: without batch normalisation.
        after: node -> factor > 0, [] or [C], that multiplies the node's value for all nodes that read it.
        before: site -> factor >= 0, [] or [C], that multiplies the site's input.
        shift: site -> offset, [] or [C], that is added to the site's input after multiplication.
    """
    forward = _Forward(graph, after)
    for node in graph.nodes:
        forward.visit(node)
    output = forward.scaled(graph.output)
    backward = _Backward(list(forward.nodes.values()), output, forward.tensors)
    for site in (node.name for node in graph.sites):
        factor, offset = before.get(site), (shift or {}).get(site)
        if factor is not None:
            backward.into(site, factor, None)
        if offset is not None:
            backward.into(site, None, offset)
    tensors = {}
    for name, tensor in backward.tensors.items():
        kept = name in graph.tensor_names and tensor is forward.originals[name]
        tensors[name] = graph.tensor(name) if kept else tensor.to(forward.dtype)
    return Graph(backward.ordered(), output, tensors)


class _Forward:
    """Moves factors after nodes into the nodes that read them. ``pending``: value in old units / value in new units."""

    def __init__(self, graph: Graph, after: Factors) -> None:
        self.graph, self.after = graph, after
        self.originals = {name: tensor.double() for name, tensor in graph.tensors.items()}
        self.tensors = dict(self.originals)
        self.dtype = next((t.dtype for t in graph.tensors.values() if t.is_floating_point()), torch.float32)
        self.shapes = {node.name: node.shape for node in graph.nodes}
        self.nodes: dict[str, Node] = {}
        self.pending: dict[str, Tensor | None] = {}

    def visit(self, node: Node) -> None:
        factors = [self.pending[name] for name in node.inputs]
        passed: Tensor | None = None
        if any(factor is not None for factor in factors):
            node, passed = self.through(node, factors)
        self.nodes[node.name] = node
        own = self.after.get(node.name)
        if own is not None:
            own = _of_sample(own, node.shape)
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
        p = self.pending[name]
        if p is None:
            return name
        affine = f"{name}.in_old_units"
        if affine not in self.nodes:
            shape = self.shapes[name]
            tensor = f"{affine}.scale"
            self.tensors[tensor] = p
            node = Node(affine, "affine", (name,), {}, {"scale": tensor}, shape, f"factor after {name}")
            self.nodes[affine] = node
        return affine


class _Backward:
    """Moves factors and offsets before sites into the nodes that the sites read."""

    def __init__(self, nodes: list[Node], output: str, tensors: dict[str, Tensor]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.output, self.tensors = output, tensors
        self.inserted: dict[str, list[str]] = {}
        self.readers: dict[str, int] = dict.fromkeys(self.nodes, 0)
        for node in nodes:
            for name in node.inputs:
                self.readers[name] += 1
        self.readers[output] += 1

    def into(self, site: str, factor: Tensor | None, offset: Tensor | None) -> None:
        """Multiply the input of a site by ``factor``, or add ``offset`` to it."""
        node = self.nodes[site]
        factor, offset = (None if v is None else _of_sample(v, node.shape) for v in (factor, offset))
        source = self.push(node.inputs[0], factor, offset)
        self.nodes[site] = replace(node, inputs=(source, *node.inputs[1:]))

    def push(self, name: str, factor: Tensor | None, offset: Tensor | None) -> str:
        """Name of the node with the value in new units: the same node, or an affine node after it."""
        node = self.nodes[name]
        if self.readers[name] == 1:
            changed = self.changed(node, factor, offset)
            if changed is not None:
                self.nodes[name] = _with_tensors(node, changed, self.tensors)
                return name
            if self.push_into_inputs(node, factor, offset):
                return name
        return self.insert(node, factor, offset)

    def push_into_inputs(self, node: Node, factor: Tensor | None, offset: Tensor | None) -> bool:
        """Move a factor to all inputs of a node, or an offset to one of them; returns False if that is not possible."""
        inputs = list(node.inputs)
        if factor is not None:
            before = self.before(node, factor)
            if before is None:
                return False
            inputs = [self.push(name, before, None) for name in inputs]
        if offset is not None:
            before = self.before(node, offset)
            if before is None:
                return False
            suitable = [i for i, name in enumerate(inputs) if self.takes(name, before)]
            chosen = suitable[0] if suitable else 0
            inputs[chosen] = self.push(inputs[chosen], None, before)
        self.nodes[node.name] = replace(node, inputs=tuple(inputs))
        return True

    def takes(self, name: str, offset: Tensor) -> bool:
        """True if the node, or the nodes before it, can take an offset without an additional affine node."""
        node = self.nodes[name]
        if self.readers[name] != 1:
            return False
        return self.changed(node, None, offset) is not None or self.before(node, offset) is not None

    def changed(self, node: Node, factor: Tensor | None, offset: Tensor | None) -> Mapping[str, Tensor] | None:
        """The changed parameters of the node with the factor or offset; None if they cannot take it."""
        operation = OPERATIONS.get(node.operation)
        return None if operation is None else operation.scale_output(self.place(node), factor, offset)

    def before(self, node: Node, value: Tensor) -> Tensor | None:
        """The factor or offset of the node's inputs that is equivalent to one of its output; None if none exists."""
        operation = OPERATIONS.get(node.operation)
        return None if operation is None else operation.to_inputs(self.place(node), value)

    def place(self, node: Node) -> NodeContext:
        return NodeContext.of(node, self.nodes, self.tensors)

    def insert(self, node: Node, factor: Tensor | None, offset: Tensor | None) -> str:
        names = self.inserted.setdefault(node.name, [])
        affine = f"{node.name}.in_new_units" + (f":{len(names) + 1}" if names else "")
        parameters = {}
        for argument, value in (("scale", factor), ("shift", offset)):
            if value is not None:
                parameters[argument] = f"{affine}.{argument}"
                self.tensors[parameters[argument]] = value
        origin = f"factor after {node.name}"
        self.nodes[affine] = Node(affine, "affine", (node.name,), {}, parameters, node.shape, origin)
        self.readers[affine] = 1
        names.append(affine)
        return affine

    def ordered(self) -> list[Node]:
        """All nodes in execution order; inserted nodes follow the node that they read."""
        inserted = {name for names in self.inserted.values() for name in names}
        order: list[Node] = []

        def put(name: str) -> None:
            order.append(self.nodes[name])
            for follower in self.inserted.get(name, ()):
                put(follower)

        for name in self.nodes:
            if name not in inserted:
                put(name)
        return order


def _with_tensors(node: Node, changed: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> Node:
    """The node with changed tensors, under names that no other call of a shared layer reads."""
    names = {argument: f"{node.name}.rescaled_{argument}" for argument in changed}
    tensors.update({names[argument]: tensor for argument, tensor in changed.items()})
    return replace(node, parameters={**node.parameters, **names})
