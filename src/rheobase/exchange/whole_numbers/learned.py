"""Learned rounding: the rounding errors of a layer's weights are chosen to cancel on the spikes that it receives."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from rheobase.exchange.whole_numbers.grids import Grids, grid_of
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.graph.operations.weighted import Weighted
from rheobase.network import Simulation
from rheobase.network.integer_network import IntegerNetwork
from rheobase.signals.signal import Constant, Signal

DAMPING = 0.01
"""Added to the diagonal of the products, as a fraction of its mean."""
SUB_BATCH = 16
ROWS = 2**15
"""Positions of all images that a layer is fitted to."""


def fit_weights(network: IntegerNetwork, grids: Grids, images: Tensor) -> dict[str, Tensor]:
    r"""Round the weights of every layer one after the other; each error is made up for by the weights that follow.

    With the inputs x of a layer on the calibration images (time-means of spikes, or pixels) and the weights w of an
    output channel, the sum of :math:`((w - \hat w)^T x)^2` is :math:`(w - \hat w)^T G (w - \hat w)` with
    :math:`G = \sum x x^T`. Weights are rounded in turn, and the others are moved to the minimum for what is rounded
    (optimal brain surgeon; Frantar et al. 2023, "OPTQ: accurate quantization for generative pre-trained transformers").
    The bias makes up for the mean of what is left. No labels.

    Args:
        network: rounded to the nearest, whose spikes are the inputs.
        grids: the weights before rounding.
        images: calibration images.

    Returns:
        The rounded weights and biases of every layer for which this is known, by name.
    """
    recording = _Grams(network)
    for part in images.split(SUB_BATCH):
        values: dict[str, Signal] = {network.graph.nodes[0].name: Constant(network.pixels(part))}
        plan = schedule(network.graph.nodes[1:], keep={network.graph.output})
        run(recording, plan, values, Simulation(network).advance(network.timesteps))
    fitted: dict[str, Tensor] = {}
    for node in network.graph.nodes:
        name = node.parameters.get("weight", "")
        if node.name not in recording.grams or name not in grids.steps:
            continue
        weight, bias = grids.graph.tensor(name), node.parameters.get("bias")
        step = grid_of(grids.graph, node, "weight", grids.steps[name])
        gram, mean = recording.grams[node.name], recording.means[node.name] / recording.rows[node.name]
        if bias is not None:  # it makes up for the mean
            gram = gram - recording.rows[node.name] * mean[:, :, None] * mean[:, None]
        fitted[name] = _rounded(weight, step, gram, network.units.target.largest_weight)
        if bias is not None:
            lost = (weight - fitted[name]).reshape(len(mean), -1, mean.shape[1]) @ mean[..., None]
            largest = network.units.target.largest_bias
            fitted[bias] = (grids.graph.tensor(bias) + lost.flatten()).round().clamp(-largest, largest)
    return fitted


class _Grams:
    """A graph that adds up the inputs of every weighted node, [G, F], and their products, [G, F, F]."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.graph = network.graph
        self.grams: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}
        self.rows: Counter[str] = Counter()

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """The value of an affine node."""
        operation = OPERATIONS[node.operation]
        if isinstance(operation, Weighted) and not getattr(operation, "transposed", False):
            self.add(node, operation, inputs[0].mean().double())
        return self.graph.compute(node, *inputs)

    def add(self, node: Node, operation: Weighted, x: Tensor) -> None:
        """Add the inputs of some images, until there are enough."""
        weight = self.graph.tensor(node.parameters["weight"]).double()
        for part in x.split(1):
            if self.rows[node.name] >= ROWS:
                return
            features = operation.regressors(part, weight=weight, **node.attributes)
            if features is None:
                return
            features = features.transpose(0, 1)
            self.rows[node.name] += features.shape[1]
            for totals, value in ((self.grams, features.mT @ features), (self.means, features.sum(1))):
                totals[node.name] = totals[node.name] + value if node.name in totals else value


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
