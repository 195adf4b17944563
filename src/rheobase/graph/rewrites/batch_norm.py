"""Fold batch normalisation into the operation before it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext
from rheobase.graph.operations.weighted import Weighted


def fold_batch_norm(graph: Graph) -> tuple[Graph, list[str]]:
    """Fold every batch normalisation into the layer before it, or replace it by a per-channel affine operation.

    y = γ (x − μ)/√(σ² + ε) + β = g x + (β − g μ) with g = γ/√(σ² + ε) is folded into the weight and bias of the
    convolution, transposed convolution or linear layer before it, if no other node reads the output of that layer.
    Computed in float64.

    Returns:
        The new graph, and a note for each batch normalisation that became an affine operation.
    """
    users, tensors = graph.users(), graph.tensors
    by_name = {node.name: node for node in graph.nodes}
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    notes = []
    for original in graph.nodes:
        node = replace(original, inputs=tuple(renamed.get(name, name) for name in original.inputs))
        nodes[node.name] = node
        if node.operation != "batch_norm":
            continue
        gain, shift = _gain_and_shift(graph, node)
        before, folded = nodes[node.inputs[0]], None
        if len(users[original.inputs[0]]) == 1 and before.name != graph.output:
            folded = _folded(NodeContext.of(before, by_name, tensors), gain, shift)
        if folded is not None:
            names = {argument: _unshared_name(graph, before, argument) for argument in folded}
            tensors.update({names[argument]: tensor for argument, tensor in folded.items()})
            nodes[before.name] = replace(before, parameters={**before.parameters, **names})
            renamed[node.name] = before.name
            del nodes[node.name]
        else:
            dtype = tensors[node.parameters["weight"]].dtype
            names = {"scale": f"{node.name}.scale", "shift": f"{node.name}.shift"}
            tensors |= {names["scale"]: gain.to(dtype), names["shift"]: shift.to(dtype)}
            nodes[node.name] = replace(node, operation="affine", attributes={}, parameters=names)
            notes.append(f"{node.origin}: becomes a per-channel affine operation (no layer before it to fold into)")
    return Graph(list(nodes.values()), renamed.get(graph.output, graph.output), tensors), notes


def _gain_and_shift(graph: Graph, node: Node) -> tuple[Tensor, Tensor]:
    """g and β − g μ in float64, [C, 1, ...], broadcastable to a sample."""
    p = {argument: graph.tensor(name).double() for argument, name in node.parameters.items()}
    gain = p["weight"] / torch.sqrt(p["running_var"] + node.attributes["eps"])
    shape = (-1,) + (1,) * (len(node.shape) - 1)
    return gain.reshape(shape), (p["bias"] - gain * p["running_mean"]).reshape(shape)


def _folded(before: NodeContext, gain: Tensor, shift: Tensor) -> dict[str, Tensor] | None:
    """Tensors of a layer with ``gain`` and ``shift`` folded in; None if the layer cannot take them."""
    operation = OPERATIONS.get(before.node.operation)
    if not isinstance(operation, Weighted):
        return None
    dtype = before.parameters["weight"].dtype
    exact = {argument: tensor.double() for argument, tensor in before.parameters.items()}
    changed = operation.scale_output(replace(before, parameters=exact), gain, shift)
    return None if changed is None else {argument: tensor.to(dtype) for argument, tensor in changed.items()}


def _unshared_name(graph: Graph, node: Node, argument: str) -> str:
    """A name for the folded tensor that no other call of a shared layer reads."""
    name = f"{node.name}.{argument}"
    shared = any(name in other.parameters.values() for other in graph.nodes if other.name != node.name)
    return f"{node.name}.folded_{argument}" if shared else name
