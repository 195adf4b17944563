"""Learned rounding: weights fitted to the spikes that they receive, and rounded so that the errors cancel on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from rheobase.core.seeds import generator
from rheobase.exchange.whole_numbers.grids import Grids, constant_bias, grid_of
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.graph.operations.lookup import Lookup
from rheobase.graph.operations.weighted import Weighted
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.integer import IntegerNeuron
from rheobase.passes.layers import Layer, Segment, layers, readout
from rheobase.passes.weight_regression import before_numbers, fittable, regress, shared_tensors
from rheobase.signals import Signal

DAMPING = 0.01
"""Added to the diagonal of the products, as a fraction of its mean."""
RIDGE = 0.03
POSITIONS = 2**15
"""Positions of all images that a layer is fitted to."""


def fit_weights(network: IntegerNetwork, reference: SpikingNetwork, grids: Grids, images: Tensor) -> dict[str, Tensor]:
    r"""Fit and round the weights, layer after layer, to the currents of the network before rounding.

    A layer receives the spikes x of layers that are rounded already. First its weights are moved to those that give the
    currents of ``reference`` for these spikes, by ridge regression (:class:`rheobase.passes.WeightRegression`): they
    make up for the errors of the layers before. Then they are rounded in turn, and the others are moved to the minimum
    for what is rounded: the sum of :math:`((w - \hat w)^T x)^2` is :math:`(w - \hat w)^T G (w - \hat w)` with
    :math:`G = \sum x x^T` (optimal brain surgeon; Frantar et al. 2023, "OPTQ: accurate quantization for generative
    pre-trained transformers"). The bias makes up for the mean of what is left. No labels.

    Args:
        network: rounded to the nearest; changed.
        reference: the network before rounding.
        grids: its weights in the units of ``network``.
        images: calibration images.

    Returns:
        The rounded weights and biases of every layer for which this is known, by name.
    """
    device = network.graph.device
    steps = {name: step.to(device) for name, step in grids.steps.items()}
    grids = replace(grids, graph=grids.graph.on(device), steps=steps)
    layerwise = _Fit(network, grids)
    for layer, before in zip(layers(network, images), layers(reference, images), strict=True):
        layerwise.fit(layer, _target(layer, before, reference), before.on_means(reference.graph))
    last = readout(network, images)
    logits = torch.cat([reference(part) for part in images.split(reference.sub_batch_size(reference.timesteps))])
    exact = readout(reference, images).on_means(reference.graph) if grids.tables else {}
    layerwise.fit(last, logits / network.units.logit, exact)
    return {name: tensor.cpu() for name, tensor in layerwise.fitted.items()}


def _target(layer: Layer, before: Layer, reference: SpikingNetwork) -> Tensor:
    """The current of the network before rounding in whole units, [B, C, ...]; 0 for silent channels."""
    current = before.on_means(reference.graph)[before.source].mean()
    shape = (-1,) + (1,) * (current.dim() - 2)
    bias = constant_bias(before.neuron)
    if bias is not None:
        current = current - bias.reshape(shape)
    _, unit = layer.neuron.activation_units
    unit = unit.reshape(shape)
    return torch.where(unit > 0, current / unit.clamp(min=1e-30), 0.0)


class _Fit:
    """Fits and rounds segment after segment in the graph of the network, which the segments after it then run with."""

    def __init__(self, network: IntegerNetwork, grids: Grids) -> None:
        self.network, self.grids = network, grids
        self.fitted: dict[str, Tensor] = {}
        self._shared = shared_tensors(network.graph)
        self._read = before_numbers(network.graph, self._shared)
        self._readers = network.graph.users()
        self._draws = generator(0)

    def fit(self, segment: Segment, target: Tensor, exact: Mapping[str, Signal]) -> None:
        """Fit all weights of a segment for which this is known, to the current of its end, or of a lookup in it.

        ``exact``: the values of all nodes in the network before rounding, in natural units.
        """
        wanted = {node.name for node in fittable(segment, self._shared, [])}
        for node in segment.nodes:
            operation = OPERATIONS.get(node.operation)
            known = isinstance(operation, Weighted) and type(operation).regressors is not Weighted.regressors
            name = node.parameters.get("weight", "")
            if not known or name not in self.grids.steps or name in self._shared:
                continue
            source = self._read.get(node.name, "")
            units = self._units(source)
            if node.name in wanted:
                self._round(segment, node, target, True)
            elif units is not None and source in exact:
                self._round(Segment(segment.nodes, segment.inputs, source), node, exact[source].mean() * units, True)
            else:
                alone = Segment(segment.nodes, segment.inputs, node.name)
                self._round(alone, node, alone.on_means(self.network.graph)[node.name].mean(), False)

    def _units(self, source: str) -> Tensor | None:
        """The whole units of a value for its 1, broadcastable to a sample, if a lookup alone reads it."""
        readers = self._readers.get(source, [])
        if len(readers) != 1 or readers[0].operation != Lookup.name:
            return None
        theta = self.network.graph.tensor(readers[0].parameters["threshold"])
        return theta / self.grids.tables[readers[0].name].reach

    def _round(self, segment: Segment, node: Node, target: Tensor, moves: bool) -> None:
        """Round one node; its weights first move to the target if ``moves``."""
        network, exact = self.network, self.grids.graph
        weight, bias = node.parameters["weight"], node.parameters.get("bias")
        before = {name: exact.tensor(name).to(network.graph.dtype) for name in (weight, bias) if name}
        graph = network.graph.replace(tensors=before)
        bounds: tuple[float | Tensor, float | Tensor] = (-torch.inf, torch.inf)
        if isinstance(segment, Layer) and moves:
            neuron, site = cast(IntegerNeuron, segment.neuron), segment.site
            unit = neuron.activation_units[1].clamp(min=1e-30)
            bounds = (site.lower / unit, (torch.inf if site.upper is None else site.upper) / unit)
            moves = moves and bool(site.previous)
        found = regress(graph, segment, node, target, bounds, RIDGE, 2, POSITIONS, self._draws)
        moved = {n: graph.tensor(n).double() + found.changes[n] * moves for n in before}
        gram, mean = found.normal, None
        if bias is not None:  # it makes up for the mean
            rows, mean = gram[:, -1:, -1:], gram[:, :-1, -1:] / gram[:, -1:, -1:]
            gram = gram[:, :-1, :-1] - rows * mean * mean.mT
        chip = network.units.target
        step = grid_of(exact, node, "weight", self.grids.steps[weight])
        self.fitted[weight] = _rounded(moved[weight], step, gram, chip.largest_weight)
        if bias is not None and mean is not None:
            lost = (moved[weight] - self.fitted[weight]).reshape(len(mean), -1, mean.shape[1]) @ mean
            largest = chip.largest_bias
            self.fitted[bias] = (moved[bias] + lost.flatten()).round().clamp(-largest, largest)
        tensors = {name: self.fitted[name].to(network.graph.dtype) for name in before}
        network.graph = network.graph.replace(tensors=tensors)


def _rounded(weight: Tensor, step: Tensor, gram: Tensor, largest: int) -> Tensor:
    """The weights [C, ...] on multiples of ``step``, for the products [G, F, F] of their inputs."""
    groups, size = gram.shape[:2]
    left = weight.reshape(groups, -1, size).clone()
    grid = step.reshape(left.shape)
    scale = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)[:, None, None]
    damped = gram + DAMPING * scale * torch.eye(size, dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    for i in range(size):
        own = inverse[:, i, i, None]
        rounded = (left[..., i] / grid[..., i]).round().clamp(-largest, largest) * grid[..., i]
        error = (left[..., i] - rounded) / own
        left[..., i:] -= error[..., None] * inverse[:, i, None, i:]
        left[..., i] = rounded
    return left.reshape(weight.shape)
