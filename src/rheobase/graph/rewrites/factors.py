"""Factors moved into weights: values of a graph in other units, its output the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node

_WEIGHTED = ("conv", "conv_transpose", "linear", "affine")
Factors = Mapping[str, Tensor]


def _along(factor: Tensor, axes: int) -> Tensor:
    """A [C] factor as it broadcasts against a tensor of ``axes`` axes whose first is the channels."""
    return factor.reshape(-1, *(1,) * (axes - 1)) if factor.dim() else factor


def rescale(graph: Graph, after: Factors, before: Factors, shift: Factors | None = None) -> Graph:
    """Multiply what nodes give by ``after`` and what sites receive by ``before``, within the weights around them.

    A factor goes into the weights of the convolutions, linear layers and affines that read (``after``) or give
    (``before``) the value, through sums, pooling, padding, slices, concatenation and flattening; where there are none,
    as on a shortcut without weights, it becomes a per-channel affine of its own. Computed in float64.

    Args:
        graph: without batch normalisation.
        after: node -> factor > 0, [] or [C]; everything that reads the node sees its value times the factor.
        before: site -> factor >= 0, [] or [C].
        shift: site -> what is added to its input after that, [] or [C].
    """
    forward = _Forward(graph, after)
    for node in graph.nodes:
        forward.visit(node)
    output = forward.scaled(graph.output)
    backward = _Backward(list(forward.nodes.values()), output, forward.tensors)
    for site in (node.name for node in graph.sites):
        factor, offset = before.get(site), (shift or {}).get(site)
        if factor is not None:
            backward.into(site, factor.double(), None)
        if offset is not None:
            backward.into(site, None, offset.double())
    tensors = {}
    for name, tensor in backward.tensors.items():
        kept = name in graph.tensor_names and tensor is forward.originals[name]
        tensors[name] = graph.tensor(name) if kept else tensor.to(forward.dtype)
    return Graph(backward.ordered(), output, tensors)


class _Forward:
    """Factors that follow nodes, moved on to what reads them. ``pending``: value in the old graph / value here."""

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
            passed = own.double() if passed is None else passed * own.double()
        self.pending[node.name] = passed

    def through(self, node: Node, factors: list[Tensor | None]) -> tuple[Node, Tensor | None]:
        """The node for inputs in their new units, and the factor that its own value then lacks."""
        if node.operation in _WEIGHTED:
            absorbed = self.absorb(node, factors[0])
            if absorbed is not None:
                return absorbed, None
        else:
            known, passed = self.commute(node, factors)
            if known:
                return node, passed
        return replace(node, inputs=tuple(map(self.scaled, node.inputs))), None

    def absorb(self, node: Node, p: Tensor | None) -> Node | None:
        """A weighted node with the factor of its input in its weights; None if they do not lie along the channels."""
        assert p is not None
        if node.operation == "affine":
            scale = _along(p, len(node.shape))
            if "scale" in node.parameters:
                scale = self.tensors[node.parameters["scale"]] * scale
            return self.with_tensors(node, {"scale": scale})
        weight = self.tensors[node.parameters["weight"]]
        if p.dim() == 0:
            return self.with_tensors(node, {"weight": weight * p})
        if node.operation == "linear":
            if len(self.shapes[node.inputs[0]]) != 1:
                return None
            return self.with_tensors(node, {"weight": weight * p})
        if node.operation == "conv_transpose":
            return self.with_tensors(node, {"weight": weight * _along(p, weight.dim())})
        groups, (out, into) = node.attributes["groups"], weight.shape[:2]
        rows = p.reshape(groups, 1, into).expand(groups, out // groups, into).reshape(out, into)
        return self.with_tensors(node, {"weight": weight * rows.reshape(out, into, *(1,) * (weight.dim() - 2))})

    def with_tensors(self, node: Node, tensors: Mapping[str, Tensor]) -> Node:
        """The node with tensors of its own, that no other call of the same layer reads."""
        names = {argument: f"{node.name}.rescaled_{argument}" for argument in tensors}
        self.tensors.update({names[argument]: tensor for argument, tensor in tensors.items()})
        return replace(node, parameters={**node.parameters, **names})

    def commute(self, node: Node, factors: list[Tensor | None]) -> tuple[bool, Tensor | None]:
        """Whether a node without weights gives the same in other units, and the factor that it then lacks."""
        a, operation = node.attributes, node.operation
        if operation == "add":
            p = factors[0]
            return all(f is not None and p is not None and torch.equal(f, p) for f in factors), p
        if operation == "concat":
            sizes = [self.shapes[name][0] for name in node.inputs]
            one = torch.ones((), dtype=torch.float64, device=self.graph.device)
            parts = [(one if f is None else f).expand(n) for f, n in zip(factors, sizes, strict=True)]
            return a["dim"] == 1, torch.cat(parts)
        (p,) = factors
        assert p is not None
        shape = self.shapes[node.inputs[0]]
        if operation in ("avg_pool", "adaptive_avg_pool", "upsample", "max_pool"):
            return True, p
        if operation == "mean":
            return p.dim() == 0 or 1 not in [d % (len(shape) + 1) for d in a["dim"]], p
        if operation == "slice":
            return True, p[a["start"] : a["stop"] : a["step"]] if a["dim"] == 1 and p.dim() else p
        if operation == "pad":
            first = 2 * (len(shape) - 1)  # pairs are listed from the last axis backwards
            amounts = a["pad"][first : first + 2]
            across = any(amounts) and p.dim() > 0
            zeros = a["mode"] == "constant" and a["value"] in (None, 0)
            if not zeros and (a["mode"] == "constant" or across):
                return False, None
            return True, F.pad(p, amounts, value=1.0) if across else p
        if operation == "permute":
            return p.dim() == 0 or a["dims"][1] == 1, p
        if operation == "reshape":
            if p.dim() and len(node.shape) == 1:
                return True, p.repeat_interleave(node.shape[0] // shape[0])
            return p.dim() == 0 or node.shape[:1] == shape[:1], p
        return False, None

    def scaled(self, name: str) -> str:
        """The value in its old units: the name of an affine that multiplies it, if it lacks a factor."""
        p = self.pending[name]
        if p is None:
            return name
        made = f"{name}.in_old_units"
        if made not in self.nodes:
            shape = self.shapes[name]
            tensor = f"{made}.scale"
            self.tensors[tensor] = _along(p, len(shape))
            node = Node(made, "affine", (name,), {}, {"scale": tensor}, shape, f"factor after {name}")
            self.nodes[made] = node
        return made


class _Backward:
    """Factors and shifts in front of sites, moved back to what the sites read."""

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
        """Make the site receive ``factor`` times its current, or ``offset`` more."""
        node = self.nodes[site]
        source = self.push(node.inputs[0], factor, offset)
        self.nodes[site] = replace(node, inputs=(source, *node.inputs[1:]))

    def push(self, name: str, factor: Tensor | None, offset: Tensor | None) -> str:
        """The node that gives the value in new units: the same, or an affine after it."""
        node = self.nodes[name]
        if self.readers[name] == 1:
            if self.adapt(node, factor, offset):
                return name
            if node.operation == "add":
                self.push_into_sum(node, factor, offset)
                return name
        return self.insert(node, factor, offset)

    def push_into_sum(self, node: Node, factor: Tensor | None, offset: Tensor | None) -> None:
        if factor is not None:
            inputs = [self.push(term, factor, None) for term in node.inputs]
        else:  # one term takes the shift, the first that has weights
            able = [i for i, term in enumerate(node.inputs) if self.takes(term)]
            inputs = list(node.inputs)
            chosen = able[0] if able else 0
            inputs[chosen] = self.push(inputs[chosen], None, offset)
        self.nodes[node.name] = replace(node, inputs=tuple(inputs))

    def takes(self, name: str) -> bool:
        return self.readers[name] == 1 and self.nodes[name].operation in (*_WEIGHTED, "add")

    def adapt(self, node: Node, factor: Tensor | None, offset: Tensor | None) -> bool:
        """Change a weighted node's own weights, if they lie along the channels."""
        vector = any(t is not None and t.dim() for t in (factor, offset))
        if node.operation not in _WEIGHTED or (node.operation == "linear" and len(node.shape) != 1 and vector):
            return False
        changed: dict[str, Tensor] = {}
        weights, bias = ("scale", "shift") if node.operation == "affine" else ("weight", "bias")
        along = len(node.shape) if node.operation == "affine" else 1
        if factor is not None:
            for argument in (weights, bias):
                if argument in node.parameters:
                    tensor = self.tensors[node.parameters[argument]]
                    changed[argument] = tensor * self.output_factor(node, argument, tensor, factor, along)
            if node.operation == "affine" and "scale" not in node.parameters:
                changed["scale"] = _along(factor, along)
        if offset is not None:
            size = 1 if node.operation == "affine" else node.shape[-1 if node.operation == "linear" else 0]
            value = _along(offset, along) if offset.dim() else offset.expand(size)
            if bias in node.parameters:
                value = self.tensors[node.parameters[bias]] + value
            changed[bias] = value
        names = {argument: f"{node.name}.rescaled_{argument}" for argument in changed}
        self.tensors.update({names[argument]: tensor for argument, tensor in changed.items()})
        self.nodes[node.name] = replace(node, parameters={**node.parameters, **names})
        return True

    @staticmethod
    def output_factor(node: Node, argument: str, tensor: Tensor, factor: Tensor, along: int) -> Tensor:
        """The factor of the output channels, as it broadcasts against one of the node's tensors."""
        if factor.dim() == 0 or argument == "bias":
            return factor
        if argument in ("scale", "shift"):
            return _along(factor, along)
        if node.operation != "conv_transpose":
            return _along(factor, tensor.dim())
        groups, (into, out) = node.attributes["groups"], tensor.shape[:2]
        rows = factor.reshape(groups, 1, out).expand(groups, into // groups, out).reshape(into, out)
        return rows.reshape(into, out, *(1,) * (tensor.dim() - 2))

    def insert(self, node: Node, factor: Tensor | None, offset: Tensor | None) -> str:
        names = self.inserted.setdefault(node.name, [])
        made = f"{node.name}.in_new_units" + (f":{len(names) + 1}" if names else "")
        parameters = {}
        for argument, value in (("scale", factor), ("shift", offset)):
            if value is not None:
                parameters[argument] = f"{made}.{argument}"
                self.tensors[parameters[argument]] = _along(value, len(node.shape))
        origin = f"factor after {node.name}"
        self.nodes[made] = Node(made, "affine", (node.name,), {}, parameters, node.shape, origin)
        self.readers[made] = 1
        names.append(made)
        return made

    def ordered(self) -> list[Node]:
        """All nodes in execution order: what was inserted follows what it reads."""
        made = {name for names in self.inserted.values() for name in names}
        order: list[Node] = []

        def put(name: str) -> None:
            order.append(self.nodes[name])
            for follower in self.inserted.get(name, ()):
                put(follower)

        for name in self.nodes:
            if name not in made:
                put(name)
        return order
