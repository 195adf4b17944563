"""A calibrated network for images of another size."""

from __future__ import annotations

from dataclasses import replace

import torch

from rheobase.core.errors import RecipeError
from rheobase.graph.graph import Graph
from rheobase.network.spiking_network import SpikingNetwork


def resized(network: SpikingNetwork, graph: Graph) -> SpikingNetwork:
    """The network with the sizes of another trace of the same analog network.

    Thresholds, biases and weights belong to channels, so that they hold at any size. Shapes, windows, positions of
    slices and factors of means are those of ``graph``.

    Args:
        network: calibrated with images of one size; neurons and weights are shared with the result.
        graph: the analog network for images of another size, rewritten like ``network.ann``.

    Raises:
        RecipeError: if the networks differ in more than sizes, or neurons have a value for each position.
    """
    where = f"example of shape {list(graph.input_shape)}"
    remedy = f"calibrate with images of shape {list(graph.input_shape)}"
    found = {node.name: node for node in graph.nodes}
    for node in network.ann.nodes:
        other = found.get(node.name)
        same = other is not None and (node.operation, node.inputs, node.parameters) == (
            other.operation,
            other.inputs,
            other.parameters,
        )
        if not same or len(found) != len(network.ann.nodes):
            reason = f"gives another network than {list(network.ann.input_shape)}, first at {node.name}"
            raise RecipeError(reason, where=where, remedy=remedy)
    for name, tensor in network.ann.tensors.items():
        if tensor.shape != graph.tensor(name).shape:
            reason = f"needs the tensor {name} with shape {list(graph.tensor(name).shape)}, not {list(tensor.shape)}"
            raise RecipeError(reason, where=where, remedy=remedy)

    def at_size(old: Graph) -> Graph:
        nodes = [replace(n, attributes=found[n.name].attributes, shape=found[n.name].shape) for n in old.nodes]
        return old.replace(nodes=nodes)

    same_graph = network.graph is network.ann
    ann = at_size(network.ann)
    result = SpikingNetwork(
        ann if same_graph else at_size(network.graph),
        ann,
        [network.neuron(site.name) for site in network.sites],
        network.timesteps,
        network.recipe,
        network.provenance,
        network.alignment,
        network.protocol,
    )
    try:
        result(torch.zeros(1, *graph.input_shape, dtype=graph.dtype))
    except RuntimeError as error:  # a value for each position, such as the initial potentials of a pass
        reason = f"does not fit neurons that were calibrated for {list(network.ann.input_shape)}"
        raise RecipeError(reason, where=where, remedy=remedy) from error
    result.provenance.notes.append(
        f"calibrated on images of shape {list(network.ann.input_shape)}, runs on {list(graph.input_shape)}"
    )
    return result
