"""A calibrated network for images of another size."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

import torch

from rheobase.core.errors import RecipeError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.network.spiking_network import SpikingNetwork


def resized(network: SpikingNetwork, graph: Graph) -> SpikingNetwork:
    """The network with the sizes of another trace of the same analog network.

    Thresholds, biases and weights belong to channels, so that they hold at any size. Shapes, windows and positions of
    slices are those of ``graph``.

    Args:
        network: calibrated with images of one size; neurons and weights are shared with the result.
        graph: the analog network for images of another size, rewritten like ``network.ann``.

    Raises:
        RecipeError: if the networks differ in more than sizes, or neurons have a value for each position.
    """
    where = f"example of shape {list(graph.input_shape)}"
    remedy = f"calibrate with images of shape {list(graph.input_shape)}"
    found = {node.name: node for node in graph.nodes}
    for node, other in zip_longest(network.ann.nodes, graph.nodes):
        if _kind(node) != _kind(other):
            reason = f"gives another network than {list(network.ann.input_shape)}, first at {(node or other).name}"
            raise RecipeError(reason, where=where, remedy=remedy)
    for name, tensor in network.ann.tensors.items():
        if tensor.shape != graph.tensor(name).shape:
            reason = f"needs the tensor {name} with shape {list(graph.tensor(name).shape)}, not {list(tensor.shape)}"
            raise RecipeError(reason, where=where, remedy=remedy)
        if not torch.equal(tensor, graph.tensor(name)):
            reason = f"needs other values of the tensor {name}, which depend on the image's size, as for a sum"
            raise RecipeError(reason, where=where, remedy=remedy)

    def at_size(old: Graph) -> Graph:
        nodes = [replace(n, attributes=found[n.name].attributes, shape=found[n.name].shape) for n in old.nodes]
        return old.replace(nodes=nodes)

    ann = at_size(network.ann)
    result = network.with_graphs(ann if network.graph is network.ann else at_size(network.graph), ann)
    sizes = f"calibrated on images of shape {list(network.ann.input_shape)}, runs on {list(graph.input_shape)}"
    result.provenance = replace(network.provenance, notes=[*network.provenance.notes, sizes])
    try:
        result(torch.zeros(1, *graph.input_shape, dtype=graph.dtype))
    except RuntimeError as error:  # a value for each position, such as the initial potentials of a pass
        reason = f"does not fit neurons that were calibrated for {list(network.ann.input_shape)}"
        raise RecipeError(reason, where=where, remedy=remedy) from error
    return result


def _kind(node: Node | None) -> object:
    """What must not depend on the size."""
    return node and (node.name, node.operation, node.inputs, node.parameters)
