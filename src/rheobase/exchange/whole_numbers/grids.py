"""The grids of an integer network: a whole threshold for every channel, on whose grid the weights are rounded."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.exchange.whole_numbers.tables import Table, largest_entry, write_lookups
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, NodeContext, NotExpressible
from rheobase.graph.operations.lookup import GAIN_BITS, Lookup
from rheobase.graph.operations.weighted import Weighted
from rheobase.graph.rewrites.factors import leaves, rescale
from rheobase.graph.rewrites.sum_pool import sum_pools
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.network.target import Target
from rheobase.neurons import MembraneNeuron, Neuron
from rheobase.neurons.response import finite_amplitude

READOUT = "readout of the network"
"""Name of a site at the output, which exists only while the grids are chosen."""
UNIT = ":unit"
"""End of the name of a site that stands for the unit of a sum, likewise."""
WEIGHTS, SHIFTS = ("weight", "scale"), ("bias", "shift")
FINE = 1 / 64
"""Largest unit of a sum, in thresholds of the neurons that read it, whose rounding is that of the threshold alone."""
SEVERAL = 16.0
"""The least factor of sums in units of their own, where several of them meet."""
NO_FACTOR = 0.01
"""Difference of a factor from 1 that is due to the rounding of the threshold."""
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
    """A graph in units of 1/θ of every site and lookup, and how its weights become whole.

    Attributes:
        graph: whole numbers except for rounding: thresholds and weights are multiplied by ``thresholds``.
        thresholds: θ of every site, whole, [C]; of every lookup, [C] or []; for the readout the units of a logit, [1].
        steps: by tensor of weights, the power of two whose multiples are its grid, [C] of its own channels.
        tables: the function of every lookup.
    """

    graph: Graph
    thresholds: dict[str, Tensor]
    steps: dict[str, Tensor]
    tables: Mapping[str, Table]


def choose_grids(
    network: SpikingNetwork, target: Target, pixel: Tensor, fraction: Tensor, tables: Mapping[str, Table] | None = None
) -> Grids:
    r"""Choose the whole thresholds, and rescale the weights to their units.

    With weights w, spikes worth p and the threshold θ, a weight is :math:`w p/\theta` thresholds. The whole threshold
    is the largest for which all weights of the channel fit,

    .. math:: \theta_{int} = \Big\lfloor \frac{w_{max} + 0.49}{\max |w| p/\theta} \Big\rfloor, \qquad
        w_{int} = \mathrm{round}(w p \theta_{int}/\theta), \qquad w_{max} = 2^{bits - 1} - 1

    so that the threshold is exact, and only weights are rounded. A sum of branches meets on the grid of the finest one;
    the others are multiples of a power of two, if the target has such shifts.

    A lookup has a threshold like a site: the largest input that its table holds. A sum that several nodes read has a
    unit of its own, for which its weights fit, and the thresholds of these nodes are multiples of it.

    Raises:
        RecipeError: if the widths cannot hold a channel, or a weighted layer reads values that are not spikes.
    """
    graph, after = sum_pools(_double(network.graph), refusing)
    tables = tables or {}
    most = largest_entry(target, network.timesteps)
    graph = write_lookups(graph, tables, most)
    one = torch.ones((), dtype=torch.float64)
    before: dict[str, Tensor] = {name: one / table.reach for name, table in tables.items()} | {READOUT: one}
    shift: dict[str, Tensor] = {}
    for site in network.sites:
        neuron = network.neuron(site.name)
        amplitude = neuron.amplitude.double().cpu()
        silent = amplitude.isinf()
        after[site.name] = torch.where(silent, 1.0, amplitude)
        before[site.name] = torch.where(silent, 0.0, 1 / finite_amplitude(amplitude).clamp(min=1e-300))
        bias = constant_bias(neuron)
        if bias is not None:
            shift[site.name] = -bias.double().cpu() * before[site.name]
    after[graph.nodes[0].name] = pixel
    graph = _with_site(graph, graph.output, READOUT)
    units = {name: factor for name, factor in after.items() if bool((factor != 1).any())}
    graph = _with_units(rescale(graph, units, before, shift), target)
    graph = _less_a_fraction(graph, fraction)
    thresholds: dict[str, Tensor] = {}
    steps: dict[str, Tensor] = {}
    for name in [node.name for node in graph.nodes if node.operation in ("site", Lookup.name)]:
        node = next(node for node in graph.nodes if node.name == name)
        weights = _Weights.of(graph, node, target, most)
        if name.endswith(UNIT):
            unit = weights.unit(target)
            graph = rescale(graph, {name: 1 / unit}, {name: unit})
            steps |= weights.steps(unit, target)
        else:
            fires = node.operation == "site" and name != READOUT
            capacity = network.neuron(name).capacity(network.steps_of(name))[1] if fires else 0
            thresholds[name] = weights.threshold(target, capacity)
            steps |= weights.steps(thresholds[name], target)
    graph = rescale(graph, {}, thresholds)
    return Grids(_finished(graph, thresholds), thresholds, steps, tables)


def _with_site(graph: Graph, source: str, name: str, origin: str = "the output") -> Graph:
    """The graph with an output that stands for a site while the grids are chosen."""
    shape = next(node.shape for node in graph.nodes if node.name == source)
    site = Node(name, "site", (source,), {"activation": "identity"}, {}, shape, origin)
    return graph.replace(nodes=[*graph.nodes, site], output=name)


def _finished(graph: Graph, thresholds: Mapping[str, Tensor]) -> Graph:
    """The graph without the sites that stood for the output and for units, and with the thresholds of lookups."""
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.name == READOUT or (node.operation == "site" and node.name.endswith(UNIT)):
            (renamed[node.name],) = node.inputs
            continue
        if node.operation == Lookup.name:
            theta, gain = thresholds[node.name], node.parameters["gain"]
            theta = theta.reshape(-1, *(1,) * (len(node.shape) - 1)) if theta.dim() else theta
            tensors[node.parameters["threshold"]] = theta
            tensors[gain] = graph.tensor(gain) * 2**GAIN_BITS
        if node.operation == "affine" and "scale" in node.parameters:
            scale = graph.tensor(node.parameters["scale"])
            if bool(((scale - 1).abs() < NO_FACTOR).all()):  # of a sum in the units of the node that reads it
                kept = {argument: name for argument, name in node.parameters.items() if argument != "scale"}
                if not kept:
                    (renamed[node.name],) = node.inputs
                    continue
                node = replace(node, parameters=kept)
        nodes.append(node)
    return graph.replace(nodes=nodes, output=renamed.get(graph.output, graph.output), tensors=tensors)


def constant_bias(neuron: Neuron) -> Tensor | None:
    """A bias of the neurons that is the same at every step, [C], which becomes part of the bias of the layer."""
    bias = neuron.bias if isinstance(neuron, MembraneNeuron) else None
    return None if bias is None or bias.dim() == 2 else bias


def _double(graph: Graph) -> Graph:
    """The graph in float64 on the CPU, where the grids are chosen."""
    return graph.replace(
        tensors={n: t.cpu().double() if t.is_floating_point() else t.cpu() for n, t in graph.tensors.items()}
    )


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


def _with_units(graph: Graph, target: Target) -> Graph:
    """Give a unit of its own to every sum that is scaled, because several nodes read it, or read by weights.

    A site that stands for the unit is inserted after each of these sums. Weights may read pixels, spikes, their moves
    and sums, and sums of spikes with factors, such as the sum of two layers.

    Raises:
        RecipeError: for weights on other values, or an operation without a form in whole numbers, naming the node.
    """
    own: dict[str, Node] = {}
    while (source := _without_unit(graph, own, target)) is not None:
        own[source.name] = source
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(replace(node, inputs=tuple(f"{n}{UNIT}" if n in own else n for n in node.inputs)))
        if node.name in own:
            at = {"activation": "identity"}
            nodes.append(Node(f"{node.name}{UNIT}", "site", (node.name,), at, {}, node.shape, node.origin))
    return graph.replace(nodes=nodes) if own else graph


def _without_unit(graph: Graph, own: Container[str], target: Target) -> Node | None:
    """The first sum without a unit that is scaled; ``own`` have one."""
    by_name = {node.name: node for node in graph.nodes}
    spikes: set[str] = set()  # and pixels, and sums and moves of these
    scaled: set[str] = set()  # sums with a unit, and moves of these
    fired: set[str] = set()  # spikes, moves and sums of these, also with factors
    for node in graph.nodes:
        operation = OPERATIONS.get(node.operation)
        if node.operation in ("input", "site", "constant"):
            spikes.add(node.name)
            if node.operation != "input":
                fired.add(node.name)
            continue
        how = None if operation is None else operation.synapses(_context(graph, node))
        others = [name for name in node.inputs if name not in spikes]
        if how in ("route", "sum", "add", "scale") and fired.issuperset(node.inputs):
            fired.add(node.name)
        if how in ("route", "sum", "add") or node.operation == "max_pool":
            if not others:
                spikes.add(node.name)
            elif how != "add" and scaled.issuperset(others) and node.operation != "affine":
                scaled.add(node.name)
        if how == "scale" or node.operation == "affine":
            if not scaled.issuperset(others):
                return _sum_behind(graph, by_name, others[0], spikes | scaled)
        elif how == "weights":
            if others and others[0] in fired:
                if target.spikes <= target.largest_weight:
                    reason = f"reads a sum of spikes with factors, and {target.name} has no spikes of that many units"
                    remedy = 'use target="generic", or another with such spikes'
                    raise RecipeError(reason, where=node.name, remedy=remedy)
                if others[0] not in scaled:
                    return _sum_behind(graph, by_name, others[0], spikes | scaled)
            elif others:
                raise _reads_sums(graph, node, by_name[others[0]])
        elif how not in ("route", "sum", "add") and node.operation not in ("max_pool", Lookup.name):
            remedy = "replace it before the conversion, such as by nearest resizing or mean pooling"
            reason = f"is the operation {node.operation}, which has no form in whole numbers"
            raise RecipeError(reason, where=node.name, remedy=remedy)
        if node.name in own:
            scaled.add(node.name)
    return None


def _sum_behind(graph: Graph, by_name: Mapping[str, Node], name: str, known: Container[str]) -> Node:
    """The sum that a value is, behind moves and pooling; where several sums meet, the first one without a unit."""
    node = by_name[name]
    while node.operation == "max_pool" or (_is_move(graph, node) and node.operation != "affine"):
        node = by_name[next(one for one in node.inputs if one not in known)]
    return node


def _reads_sums(graph: Graph, reader: Node, read: Node) -> RecipeError:
    """The error for weights that read numbers or sums, with the value that they read."""
    by_name = {node.name: node for node in graph.nodes}
    while len(read.inputs) == 1 and _is_move(graph, read):
        read = by_name[read.inputs[0]]
    what = f"the output of {_place(read)}"
    if read.operation == "add":
        terms = list(dict.fromkeys(_place(_source(by_name, name)) for name in read.inputs))
        what = f"{read.name}, the sum of {' and '.join(terms)}"
    elif read.operation == Lookup.name:
        what = f"{read.attributes['function']} ({_place(read)}), which is computed on numbers"
    reason = f"reads {what}: values and not spikes of one unit, so that its weights have no grid"
    remedy = 'convert with sites="all", which puts neurons before every weighted layer'
    return RecipeError(reason, where=reader.name, remedy=remedy)


def _is_move(graph: Graph, node: Node) -> bool:
    """True if the value is its input in other places or units."""
    operation = OPERATIONS.get(node.operation)
    return operation is not None and operation.synapses(_context(graph, node)) in ("route", "sum", "scale")


def _source(by_name: Mapping[str, Node], name: str) -> Node:
    """The node before those that a change of units has added."""
    node = by_name[name]
    while node.origin.startswith("factor after "):
        node = by_name[node.inputs[0]]
    return node


def _place(node: Node) -> str:
    return "the image" if node.operation == "input" else node.name


def _context(graph: Graph, node: Node) -> NodeContext:
    return NodeContext.of(node, {one.name: one for one in graph.nodes}, graph.tensors)


@dataclass(frozen=True)
class _Weights:
    """The weights of the leaves that meet at a node, relative to its threshold, by channel of the node.

    Attributes:
        node: the node.
        common: one scale for all of its channels.
        largest, finest: the largest weight of the leaf with the largest, and of the one with the smallest; inf: none.
        biases: the largest bias.
        entries: the largest output of a lookup, which is its entry ``most``.
        peaks: by tensor, the node's channel of each of its own, and the largest weight.
        units: the smallest and the largest unit of the sums that have one, [C, 2]; inf and 0 without.
    """

    node: Node
    common: bool
    largest: Tensor
    finest: Tensor
    biases: Tensor
    entries: Tensor
    most: int
    peaks: dict[str, tuple[Tensor, Tensor]]
    units: Tensor

    @classmethod
    def of(cls, graph: Graph, node: Node, target: Target, most: int) -> _Weights:
        """The weights before a node; ``most``: the largest entry of a table."""
        nodes = {one.name: one for one in graph.nodes}
        common = node.name == READOUT
        found = leaves(graph, node.name, common=common)
        if not nodes.keys() >= {leaf.node for leaf in found}:  # a factor for each channel would take another node
            found, common = leaves(graph, node.name, common=True), True
        if not nodes.keys() >= {leaf.node for leaf in found}:
            reason = "reads sums in several units, which have no common one"
            remedy = 'convert with sites="all", or replace the operation before it'
            raise RecipeError(reason, where=node.name.removesuffix(UNIT), remedy=remedy)
        largest, biases, entries = torch.zeros(3, 1 if common else node.shape[0], dtype=torch.float64)
        finest = torch.full_like(largest, torch.inf)
        units = torch.stack([finest, torch.zeros_like(finest)], 1)
        peaks: dict[str, tuple[Tensor, Tensor]] = {}
        for leaf in found:
            own = nodes[leaf.node]
            index = torch.zeros_like(leaf.channels) if common else leaf.channels
            for argument, name in own.parameters.items():
                values = graph.tensor(name)
                if argument in SHIFTS:
                    biases.scatter_reduce_(0, index, _of_channels(values.abs(), len(index)), "amax")
                elif argument == "gain":
                    entries.scatter_reduce_(0, index, _of_channels(values * most, len(index)), "amax")
                elif argument in WEIGHTS:
                    peak = weight_peaks(graph, own, argument, len(index))
                    peak = (peak.max() if common else peak).expand(len(index))
                    peaks[name] = index, peak
                    if _reads_unit(nodes, own):
                        units[:, 0].scatter_reduce_(0, index, torch.where(peak > 0, peak, torch.inf), "amin")
                        units[:, 1].scatter_reduce_(0, index, peak, "amax")
                        peak = peak * target.largest_weight  # the weights in the sum, for which its unit was chosen
                    largest.scatter_reduce_(0, index, peak, "amax")
                    finest.scatter_reduce_(0, index, torch.where(peak > 0, peak, torch.inf), "amin")
        return cls(node, common, largest, finest, biases, entries, most, peaks, units)

    def threshold(self, target: Target, capacity: int) -> Tensor:
        """The whole threshold of every channel, [C]; [] for a lookup with one for all channels.

        A nearly silent channel may have weights of so many thresholds that even with a threshold of 1 they do not fit
        the target's width. They are then multiples of a power of two, as long as that is at most ``COARSEST`` of
        ``capacity``, which is what the neuron can emit in all steps, in thresholds.
        """
        theta = self._for_weights(self._limit(target), target)
        theta = torch.minimum(theta, ((self.most + 0.49) / self.entries).floor())
        known = theta.isfinite()
        theta = theta.where(known, theta[known].max() if bool(known.any()) else float(target.largest_weight))
        if target.shifts and target.scale == "channel":
            step = 2 ** (self._limit(target) / (target.largest_weight + 0.49)).clamp(min=1).log2().ceil()
            theta = torch.where((theta < 1) & (step <= COARSEST * capacity), 1.0, theta)
        theta = torch.minimum(theta, ((target.largest_bias + 0.49) / self.biases).floor())
        theta = theta.clamp(max=target.largest_threshold)
        theta = torch.where(self.units[:, 0].isfinite(), self._of_units(theta).round(), theta.floor())
        if target.scale == "layer":
            theta = theta.min().expand(len(theta)).clone()
        self._check(theta >= 1, target)
        return theta[0] if self.common and self.node.operation == Lookup.name else theta

    def unit(self, target: Target) -> Tensor:
        """The number of units of a sum for its 1, any number > 0, [C] or [].

        All weights fit, not only the finest: the sums of sums have to remain within the widths.
        """
        unit = torch.minimum(self._for_weights(self.largest, target), 2.0 ** (target.tables - 1) / self.entries)
        unit = self._of_units(torch.minimum(unit, (target.largest_bias + 0.49) / self.biases))
        self._check(unit > 0, target)
        known = unit.isfinite()
        unit = unit.where(known, unit[known].max() if bool(known.any()) else 1.0)
        if target.scale == "layer":
            unit = unit.min().expand(len(unit)).clone()
        return unit[0] if self.common else unit

    def steps(self, theta: Tensor, target: Target) -> dict[str, Tensor]:
        """The step of each leaf's grid for given thresholds, by the name of its tensor."""
        found = {}
        for name, (index, peak) in self.peaks.items():
            over = (peak * theta.reshape(-1)[index] / (target.largest_weight + 0.49)).clamp(min=1e-300)
            found[name] = 2 ** over.log2().ceil().clamp(min=0) if target.shifts else torch.ones_like(over)
        return found

    def _check(self, fits: Tensor, target: Target) -> None:
        """Refuse the first channel that does not fit."""
        if not bool(fits.all()):
            channel = int((~fits).nonzero()[0])
            widths = f"{target.weights}-bit weights and {target.biases}-bit biases"
            weight, bias = (f"{float(values[channel]):.3g}" for values in (self.largest, self.biases))
            needs = f"its largest weight is {weight} thresholds, its bias {bias}"
            raise RecipeError(
                f"cannot hold channel {channel} in {widths}: {needs}",
                where=self.node.origin or self.node.name.removesuffix(UNIT),
                remedy="use a target with more bits, or one with a scale for each channel",
            )

    def _for_weights(self, limit: Tensor, target: Target) -> Tensor:
        """The largest threshold for which weights of this size fit; inf without weights."""
        theta = (target.largest_weight + 0.49) / limit
        finest, largest = self.units.unbind(1)
        if not target.shifts:
            return theta
        least = torch.where(largest > finest, SEVERAL, 1.0).maximum((finest / FINE).ceil())
        return torch.where(finest.isfinite(), theta.maximum((least + 0.49) / finest), theta)

    def _of_units(self, theta: Tensor) -> Tensor:
        """The threshold up to ``theta`` for which a sum with a unit of its own has a whole factor; 0: there is none.

        The threshold, a large number, is then rounded, and not the factor.
        """
        finest = self.units[:, 0]
        return torch.where(finest.isfinite(), (theta * finest).floor().div(finest), theta)

    def _limit(self, target: Target) -> Tensor:
        """The largest weight that has to fit; 0 without weights."""
        return self.finest.where(self.finest.isfinite(), 0.0) if target.shifts else self.largest


def _reads_unit(nodes: Mapping[str, Node], node: Node) -> bool:
    """True if a factor reads a sum with a unit of its own, or a move of it."""
    if node.operation != "affine":
        return False
    node = nodes[node.inputs[0]]
    while len(node.inputs) == 1 and node.operation in ("reshape", "permute", "slice"):
        node = nodes[node.inputs[0]]
    return node.name.endswith(UNIT)


def _of_channels(values: Tensor, channels: int) -> Tensor:
    """The largest value of every channel, [C], of values [] or [C, ...]."""
    return values.reshape(channels, -1).amax(1) if values.numel() > 1 else values.reshape(1).expand(channels)


def weight_peaks(graph: Graph, node: Node, argument: str, channels: int) -> Tensor:
    """The largest absolute weight of every output channel, [C] or [1]."""
    values, operation = graph.tensor(node.parameters[argument]).abs(), OPERATIONS[node.operation]
    if not isinstance(operation, Weighted):
        return _of_channels(values, channels)
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
    if len(step) == 1 or not values.dim():
        return step[0]
    return step.reshape(values.shape if values.numel() == len(step) else (-1, *(1,) * (values.dim() - 1)))
