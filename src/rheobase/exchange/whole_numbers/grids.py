"""The grids of an integer network: a whole threshold for every channel, on whose grid the weights are rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext, NotExpressible, OnNumbers
from rheobase.graph.operations.weighted import Weighted
from rheobase.graph.rewrites.factors import Leaf, leaves, rescale
from rheobase.graph.rewrites.sum_pool import sum_pools
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.network.target import Target
from rheobase.neurons import MembraneNeuron, Neuron
from rheobase.neurons.response import finite_amplitude

READOUT = "readout of the network"
"""Name of a site at the output, which exists only while the grids are chosen."""
WEIGHTS, SHIFTS = ("weight", "scale"), ("bias", "shift")
COARSEST = 1 / 4
"""Coarsest grid of a nearly silent channel: neighbouring weights differ by at most this share of what its neuron can
emit in all steps."""


@contextmanager
def refusing(node: Node) -> Iterator[None]:
    """Turn :class:`NotExpressible` into an error that names the node."""
    try:
        yield
    except NotExpressible as cause:
        remedy = "use windows of one size, such as a global mean or a stride of the kernel's size"
        raise RecipeError(f"{cause}, so that its sums have no common unit", where=node.name, remedy=remedy) from None


@dataclass(frozen=True)
class Grids:
    """A graph in units of 1/θ of every site, and how its weights become whole.

    Attributes:
        graph: whole numbers except for rounding: thresholds and weights are multiplied by ``thresholds``.
        thresholds: θ of every site, whole, [C]; for the readout the units of a logit, [1].
        steps: by tensor of weights, the power of two whose multiples are its grid, [C] of its own channels.
    """

    graph: Graph
    thresholds: dict[str, Tensor]
    steps: dict[str, Tensor]


def choose_grids(network: SpikingNetwork, target: Target, pixel: Tensor, fraction: Tensor) -> Grids:
    r"""Choose the whole thresholds, and rescale the weights to their units.

    With weights w, spikes worth p and the threshold θ, a weight is :math:`w p/\theta` thresholds. The whole threshold
    is the largest for which all weights of the channel fit,

    .. math:: \theta_{int} = \Big\lfloor \frac{w_{max} + 0.49}{\max |w| p/\theta} \Big\rfloor, \qquad
        w_{int} = \mathrm{round}(w p \theta_{int}/\theta), \qquad w_{max} = 2^{bits - 1} - 1

    so that the threshold is exact, and only weights are rounded. A sum of branches meets on the grid of the finest one;
    the others are multiples of a power of two, if the target has such shifts.

    Raises:
        RecipeError: if the widths cannot hold a channel, or a weighted layer reads values that are not spikes.
    """
    graph, after = sum_pools(network.graph, refusing)
    before: dict[str, Tensor] = {}
    shift: dict[str, Tensor] = {}
    for site in network.sites:
        neuron = network.neuron(site.name)
        amplitude = neuron.amplitude.double()
        silent = amplitude.isinf()
        after[site.name] = torch.where(silent, 1.0, amplitude)
        before[site.name] = torch.where(silent, 0.0, 1 / finite_amplitude(amplitude).clamp(min=1e-300))
        bias = constant_bias(neuron)
        if bias is not None:
            shift[site.name] = -bias.double() * before[site.name]
    after[graph.nodes[0].name] = pixel
    out = next(node for node in graph.nodes if node.name == graph.output)
    readout = Node(READOUT, "site", (out.name,), {"activation": "identity"}, {}, out.shape, "the output")
    graph = graph.replace(nodes=[*graph.nodes, readout], output=READOUT)
    units = {name: factor for name, factor in after.items() if bool((factor != 1).any())}
    graph = rescale(_double(graph), units, before, shift)
    _check_weights_read_spikes(graph)
    graph = _less_a_fraction(graph, fraction)
    thresholds: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    for node in graph.sites:
        found = leaves(graph, node.name)
        capacity = 0 if node.name == READOUT else network.neuron(node.name).capacity(network.steps_of(node.name))[1]
        thresholds[node.name], own = _threshold(graph, node, found, target, capacity)
        shifts |= own
    graph = rescale(graph, {}, thresholds)
    nodes = [node for node in graph.nodes if node.name != READOUT]
    (source,) = next(node for node in graph.nodes if node.name == READOUT).inputs
    return Grids(graph.replace(nodes=nodes, output=source), thresholds, shifts)


def constant_bias(neuron: Neuron) -> Tensor | None:
    """A bias of the neurons that is the same at every step, [C], which becomes part of the bias of the layer."""
    bias = neuron.bias if isinstance(neuron, MembraneNeuron) else None
    return None if bias is None or bias.dim() == 2 else bias


def _double(graph: Graph) -> Graph:
    tensors = {name: t.double() if t.is_floating_point() else t for name, t in graph.tensors.items()}
    return graph.replace(tensors=tensors)


def _less_a_fraction(graph: Graph, fraction: Tensor) -> Graph:
    """Subtract a constant part of a pixel from every pixel, in the biases of the layers that read the image.

    Padding stands for 0 and needs no correction, so that at the border the bias is not exact.
    """
    if not bool((fraction != 0).any()):
        return graph
    image, changed = graph.nodes[0], {}
    constant = -fraction.reshape(-1, *(1,) * (len(image.shape) - 1)).expand(image.shape)[None]
    for node in graph.nodes:
        operation = OPERATIONS.get(node.operation)
        if node.inputs == (image.name,) and isinstance(operation, Weighted) and "bias" in node.parameters:
            weight = graph.tensor(node.parameters["weight"])
            current = operation.products(constant, weight, None, **node.attributes)[0]
            for axis in range(current.dim() - 1, 0, -1):  # away from the border
                current = current.select(axis, current.shape[axis] // 2)
            changed[node.parameters["bias"]] = graph.tensor(node.parameters["bias"]) + current
    return graph.replace(tensors=changed)


def _check_weights_read_spikes(graph: Graph) -> None:
    """Refuse weights on values that are not spikes, pixels, or sums and moves of these."""
    whole: set[str] = set()
    for node in graph.nodes:
        operation = OPERATIONS.get(node.operation)
        if node.operation in ("input", "site", "constant"):
            whole.add(node.name)
            continue
        synapses = None if operation is None else operation.synapses(_context(graph, node))
        read = all(name in whole for name in node.inputs)
        if synapses in ("route", "sum", "add") or node.operation == "max_pool":
            if read:
                whole.add(node.name)
        elif synapses in ("weights", "scale") and not read:
            raise RecipeError(
                "reads sums that are not spikes, so that its weights have no grid of their own",
                where=node.name,
                remedy='convert with sites="all", which makes every linear output that is read fire spikes',
            )
        elif synapses not in ("weights", "scale"):
            remedy = "replace it before the conversion, such as by nearest resizing or mean pooling"
            if isinstance(operation, OnNumbers):
                remedy = "train the network with ReLU in its place"
            raise RecipeError(
                f"is the operation {node.operation}, which has no form in whole numbers",
                where=node.name,
                remedy=remedy,
            )


def _context(graph: Graph, node: Node) -> NodeContext:
    return NodeContext.of(node, {one.name: one for one in graph.nodes}, graph.tensors)


def _threshold(
    graph: Graph, site: Node, found: list[Leaf], target: Target, capacity: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole threshold of every channel, and the step of each leaf's grid, by the name of its tensor.

    A nearly silent channel may have weights of so many thresholds that even with a threshold of 1 they do not fit the
    target's width. They are then multiples of a power of two, as long as that is at most ``COARSEST`` of ``capacity``,
    which is what the neuron can emit in all steps, in thresholds.
    """
    channels = 1 if site.name == READOUT else site.shape[0]
    nodes = {node.name: node for node in graph.nodes}
    largest, biases = torch.zeros(2, channels, dtype=torch.float64)
    finest = torch.full((channels,), torch.inf, dtype=torch.float64)
    peaks: dict[str, tuple[Tensor, Tensor]] = {}
    for leaf in found:
        node = nodes[leaf.node]
        index = torch.zeros_like(leaf.channels) if site.name == READOUT else leaf.channels
        for argument, name in node.parameters.items():
            if argument in SHIFTS:
                biases.scatter_reduce_(0, index, _of_channels(graph.tensor(name).abs(), len(index)), "amax")
            elif argument in WEIGHTS:
                peak = weight_peaks(graph, node, argument)
                peak = (peak.max() if site.name == READOUT else peak).expand(len(index))  # one unit for all logits
                peaks[name] = index, peak
                largest.scatter_reduce_(0, index, peak, "amax")
                finest.scatter_reduce_(0, index, torch.where(peak > 0, peak, torch.inf), "amin")
    limit = finest.where(finest.isfinite(), 0.0) if target.shifts else largest
    theta = ((target.largest_weight + 0.49) / limit).floor()
    weighted = theta.isfinite()
    theta = theta.where(weighted, theta[weighted].max() if bool(weighted.any()) else float(target.largest_weight))
    if target.shifts and target.scale == "channel":
        step = 2 ** (limit / (target.largest_weight + 0.49)).clamp(min=1).log2().ceil()
        theta = torch.where((theta < 1) & (step <= COARSEST * capacity), 1.0, theta)
    theta = torch.minimum(theta, ((target.largest_bias + 0.49) / biases).floor())
    theta = theta.clamp(max=target.largest_threshold)
    if target.scale == "layer" or site.name == READOUT:
        theta = theta.min().expand(channels).clone()
    if bool((theta < 1).any()):
        channel = int((theta < 1).nonzero()[0])
        widths = f"{target.weights}-bit weights and {target.biases}-bit biases"
        weight, bias = (f"{float(values[channel]):.3g}" for values in (largest, biases))
        raise RecipeError(
            f"cannot hold channel {channel} in {widths}: its largest weight is {weight} thresholds, its bias {bias}",
            where=site.origin or site.name,
            remedy="use a target with more bits, or one with a scale for each channel",
        )
    steps = {}
    for name, (index, peak) in peaks.items():
        over = (peak * theta[index] / (target.largest_weight + 0.49)).clamp(min=1e-300)
        steps[name] = 2 ** over.log2().ceil().clamp(min=0) if target.shifts else torch.ones_like(over)
    return theta, steps


def _of_channels(values: Tensor, channels: int) -> Tensor:
    """The largest value of every channel, [C], of values [] or [C, ...]."""
    return values.reshape(channels, -1).amax(1) if values.dim() else values.expand(channels)


def weight_peaks(graph: Graph, node: Node, argument: str) -> Tensor:
    """The largest absolute weight of every output channel, [C] or [1]."""
    values, operation = graph.tensor(node.parameters[argument]).abs(), OPERATIONS[node.operation]
    if not isinstance(operation, Weighted):
        return _of_channels(values, len(values) if values.dim() else 1)
    rows = rows_of(graph, node, values)
    return torch.zeros(int(rows.max()) + 1, dtype=values.dtype).scatter_reduce_(
        0, rows.flatten(), values.flatten(), "amax"
    )


def rows_of(graph: Graph, node: Node, weight: Tensor) -> Tensor:
    """The output channel of every entry of a weight."""
    operation = OPERATIONS[node.operation]
    assert isinstance(operation, Weighted)
    channels = node.shape[operation.channels]
    along = operation.along_outputs(_context(graph, node), torch.arange(channels, dtype=torch.float64))
    return along.expand(weight.shape).long()


def round_weights(grids: Grids, fitted: Mapping[str, Tensor] | None = None) -> Graph:
    """The graph with whole tensors: weights on their grids (``fitted`` ones as they are), and everything else to 1."""
    graph, fitted = grids.graph, fitted or {}
    changed = {}
    for node in graph.nodes:
        for argument, name in node.parameters.items():
            tensor = graph.tensor(name)
            if name in fitted:
                changed[name] = fitted[name]
            elif name in grids.steps:
                step = grid_of(graph, node, argument, grids.steps[name])
                changed[name] = (tensor / step).round() * step
            elif tensor.is_floating_point():
                changed[name] = tensor.round()
    return graph.replace(tensors=changed)


def grid_of(graph: Graph, node: Node, argument: str, step: Tensor) -> Tensor:
    """The step of the grid of every entry of a weight."""
    values = graph.tensor(node.parameters[argument])
    if isinstance(OPERATIONS[node.operation], Weighted):
        return step.expand(int(rows_of(graph, node, values).max()) + 1)[rows_of(graph, node, values)]
    return step.reshape(-1, *(1,) * (values.dim() - 1)) if values.dim() else step[0]
