"""Batch normalisation folded into the operation before it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node

_OUTPUT_AXIS = {"conv": 0, "conv_transpose": 1, "linear": 0}


def fold_batch_norm(graph: Graph) -> tuple[Graph, list[str]]:
    """Fold every batch normalisation; one that stands alone becomes a per-channel affine.

    y = γ (x − μ)/√(σ² + ε) + β = g x + (β − g μ) with g = γ/√(σ² + ε); into the weight and bias of the convolution,
    transposed convolution or linear layer before it when nothing else reads that layer's output. Computed in float64.

    Returns:
        The new graph, and a sentence for each batch normalisation that became an affine.
    """
    users = graph.users()
    by_name = {node.name: node for node in graph.nodes}
    tensors = graph.tensors
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    notes = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.operation != "batch_norm":
            nodes[node.name] = node
            continue
        gain, shift = _gain_and_shift(graph, node)
        before = nodes[node.inputs[0]]
        if _foldable(before, users[by_name[node.name].inputs[0]], tensors, graph.output):
            weight = tensors[before.parameters["weight"]]
            bias_name = before.parameters.get("bias")
            bias = tensors[bias_name].double() if bias_name else torch.zeros_like(shift)
            weight_name, bias_name = (_own(graph, before, argument) for argument in ("weight", "bias"))
            tensors[weight_name] = (weight.double() * _along(before, weight, gain)).to(weight.dtype)
            tensors[bias_name] = (bias * gain + shift).to(weight.dtype)
            parameters = {**before.parameters, "weight": weight_name, "bias": bias_name}
            nodes[before.name] = replace(before, parameters=parameters)
            renamed[node.name] = before.name
        else:
            shape = (-1,) + (1,) * (len(node.shape) - 1)
            dtype = tensors[node.parameters["weight"]].dtype
            names = {"scale": f"{node.name}.scale", "shift": f"{node.name}.shift"}
            tensors[names["scale"]] = gain.to(dtype).reshape(shape)
            tensors[names["shift"]] = shift.to(dtype).reshape(shape)
            nodes[node.name] = replace(node, operation="affine", attributes={}, parameters=names)
            notes.append(f"{node.origin}: becomes a per-channel affine (no layer before it to fold into)")
    return Graph(list(nodes.values()), renamed.get(graph.output, graph.output), tensors), notes


def _gain_and_shift(graph: Graph, node: Node) -> tuple[Tensor, Tensor]:
    p = {argument: graph.tensor(name).double() for argument, name in node.parameters.items()}
    gain = p["weight"] / torch.sqrt(p["running_var"] + node.attributes["eps"])
    return gain, p["bias"] - gain * p["running_mean"]


def _foldable(before: Node, users: list[Node], tensors: dict[str, Tensor], output: str) -> bool:
    if before.operation not in _OUTPUT_AXIS or len(users) != 1 or before.name == output:
        return False
    # over tokens a linear layer's features are the last axis, batch normalisation's the second
    return before.operation != "linear" or len(before.shape) == 1


def _own(graph: Graph, node: Node, argument: str) -> str:
    """A name for the folded tensor that no other call of the same layer reads."""
    name = f"{node.name}.{argument}"
    shared = any(name in other.parameters.values() for other in graph.nodes if other.name != node.name)
    return f"{node.name}.folded_{argument}" if shared else name


def _along(before: Node, weight: Tensor, gain: Tensor) -> Tensor:
    if before.operation != "conv_transpose":
        return gain.reshape((-1,) + (1,) * (weight.dim() - 1))
    # weight [in, out/groups, ...]: the rows of group i feed output channels i*out/groups ...
    groups = before.attributes["groups"]
    per_group = gain.reshape(groups, 1, weight.shape[1])
    rows = per_group.expand(groups, weight.shape[0] // groups, weight.shape[1]).reshape(weight.shape[:2])
    return rows.reshape(*weight.shape[:2], *(1,) * (weight.dim() - 2))
