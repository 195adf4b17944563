"""Execution layer by layer, all images of a site at once, for passes that use time-means.

:func:`layers` simulates a spiking network; :func:`walk` runs a network in closed form, or the analog network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.graph import Graph, Node
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.operations import in_memory_format
from rheobase.graph.rewrites.alignment import OPERATION as ALIGN
from rheobase.graph.sites import Site
from rheobase.network import Simulation, SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.signals import Constant, Signal, TimeSeries

SUB_BATCH = 32
SubBatches = list[Tensor]
"""A value for all images, in sub-batches."""


@dataclass(frozen=True)
class Segment:
    """The operations before a site that no earlier site needs, or those of the readout.

    Attributes:
        nodes: the operations, in execution order.
        inputs: signals that the operations read: spike trains of earlier sites, or constants.
        source: name of the signal that the site reads, or of the output.
    """

    nodes: tuple[Node, ...]
    inputs: dict[str, Signal]
    source: str

    def mean_current(self, graph: Graph, means: dict[str, Tensor]) -> Tensor:
        """Time-mean of ``source`` for given time-means of ``inputs``; differentiable in the weights of ``graph``.

        Exact, because operations are affine or, on numbers, exact in the time-mean; a max-pool gate is treated as the
        maximum of the time-means.
        """
        return self.on_means(graph, means)[self.source].mean()

    def on_means(self, graph: Graph, means: dict[str, Tensor] | None = None) -> dict[str, Signal]:
        """The values of all nodes for time-means of ``inputs``, by default those of the signals."""
        means = {name: signal.mean() for name, signal in self.inputs.items()} if means is None else means
        values: dict[str, Signal] = {name: Constant(mean) for name, mean in means.items()}
        run(graph, [(node, ()) for node in self.nodes], values, graph.analog)
        return values


@dataclass(frozen=True)
class Layer(Segment):
    """A segment and the site after it, before it fires.

    Attributes:
        site: the site.
        neuron: its neurons.
        node: its node.
    """

    site: Site
    neuron: Neuron
    node: Node

    @torch.inference_mode()
    def sub_batches(self, network: SpikingNetwork) -> Iterator[dict[str, Signal]]:
        """Yield the signals of all nodes and of the site, with the present weights and neurons, in sub-batches."""
        batch = next(_images(signal) for signal in self.inputs.values())
        size = network.sub_batch_size(network.timesteps)
        for start in range(0, batch, size):
            values = {name: _part(signal, slice(start, start + size)) for name, signal in self.inputs.items()}
            advance = Simulation(network).advance(network.timesteps)
            run(network.graph, [(node, ()) for node in self.nodes], values, advance)
            yield {**values, self.site.name: advance(self.node, values[self.source])}

    def mean_output(self, network: SpikingNetwork) -> Tensor:
        """Time-mean [B, C, ...] of the output of the present neurons."""
        return torch.cat([values[self.site.name].mean() for values in self.sub_batches(network)])


def layers(network: SpikingNetwork, images: Tensor) -> Iterator[Layer]:
    """Yield every site in execution order, each before it fires.

    The caller may change the neurons or weights of a layer before it requests the next layer; the layer then fires with
    the changes, also where ``network.graph`` was replaced by one with the same nodes. One pass costs a simulation, two
    if the caller also computes the output of the layer, and the memory of the output of a layer for all steps and
    images.
    """
    nodes = {node.name: node for node in network.nodes}
    groups = _first_needed(network)
    last_read: dict[str, int] = {}
    for site, group in zip(network.sites, groups, strict=True):
        for node in (*group, nodes[site.name]):
            last_read |= dict.fromkeys(node.inputs, site.index)
    pixels = network.at_input(images.to(network.graph.device))
    values: dict[str, Signal] = {network.graph.nodes[0].name: Constant(in_memory_format(pixels))}
    for site, group in zip(network.sites, groups, strict=True):
        (source,) = nodes[site.name].inputs
        read = {source, *(name for node in group for name in node.inputs)}
        inputs = {name: values[name] for name in read & set(values)}
        layer = Layer(tuple(group), inputs, source, site, network.neuron(site.name), nodes[site.name])
        yield layer
        aligned = [node for node in network.nodes if node.operation == ALIGN and node.inputs == (site.name,)]
        made = {site.name, *(node.name for node in (*group, *aligned))}
        later = {name for name in made if last_read.get(name, -1) > site.index}
        values = {name: value for name, value in values.items() if last_read.get(name, -1) > site.index}
        start = 0
        for signals in layer.sub_batches(network):
            for node in aligned:
                signals[node.name] = Simulation(network).advance(network.timesteps)(node, signals[site.name])
            for name in later:
                if name not in values:
                    values[name] = _empty(signals[name], len(images))
                _part(values[name], slice(start, start + _images(signals[name]))).values.copy_(signals[name].values)
            start += _images(signals[site.name])


@torch.inference_mode()
def readout(network: SpikingNetwork, images: Tensor) -> Segment:
    """The segment after the last sites; its inputs are time-means. It costs a simulation."""
    parts = []
    for part in network.check_images(images).split(network.sub_batch_size(network.timesteps)):
        values = network.begin(part)
        run(network.graph, network.between, values, Simulation(network).advance(network.timesteps))
        parts.append({name: values[name].mean() for name in network.readout_inputs})
    inputs: dict[str, Signal] = {
        name: Constant(torch.cat([part[name] for part in parts])) for name in network.readout_inputs
    }
    return Segment(network.readout_nodes, inputs, network.graph.output)


def _images(signal: Signal) -> int:
    return signal.values.shape[isinstance(signal, TimeSeries)]


def _part(signal: Signal, images: slice) -> Signal:
    return TimeSeries(signal.values[:, images]) if isinstance(signal, TimeSeries) else Constant(signal.values[images])


def _empty(like: Signal, images: int) -> Signal:
    """An uninitialised signal like ``like`` of ``images`` images, in the memory format of the network."""
    steps = (like.steps,) if isinstance(like, TimeSeries) else ()
    rest = like.values.shape[1 + len(steps) :]
    layout = torch.channels_last if len(rest) == 3 else torch.contiguous_format
    shape = (math.prod(steps) * images, *rest)
    room = torch.empty(shape, dtype=like.values.dtype, device=like.values.device, memory_format=layout)
    room = room.unflatten(0, (*steps, images))
    return TimeSeries(room) if steps else Constant(room)


def _first_needed(network: SpikingNetwork) -> list[list[Node]]:
    """For each site, the operations it needs that no earlier site needs, in execution order."""
    nodes = network.nodes
    by_name = {node.name: node for node in nodes}
    taken = {nodes[0].name, *(node.name for node in nodes if node.operation in ("site", ALIGN))}
    groups = []
    for site in network.sites:
        wanted, found = list(by_name[site.name].inputs), set[str]()
        while wanted:
            name = wanted.pop()
            if name not in taken:
                taken.add(name)
                found.add(name)
                wanted.extend(by_name[name].inputs)
        groups.append([node for node in nodes if node.name in found])
    return groups


@torch.no_grad()
def walk(
    graph: Graph,
    images: Tensor,
    before: Callable[[Graph, Node, SubBatches], Graph] | None = None,
    after: Callable[[Node, SubBatches], None] | None = None,
) -> Generator[tuple[Graph, Node, SubBatches], SubBatches, None]:
    """Run a network on time-means with a stop at each site; nothing is computed twice.

    Yields the graph, the node of a site and its currents, receives (``send``) the outputs of the site, and finally
    yields the graph, the last node and its outputs.

    ``before`` is called with the graph, a node and its inputs before the node runs, and returns the graph to continue
    with, which may have other tensors. ``after`` is called with a node other than a site, and its values.
    """
    first = graph.nodes[0].name
    batches: list[dict[str, Signal]] = [
        {first: Constant(in_memory_format(part.to(graph.device)))} for part in images.split(SUB_BATCH)
    ]
    for node, released in schedule(graph.nodes[1:], keep={graph.output}):
        inputs = [values[node.inputs[0]].mean() for values in batches] if node.inputs else []
        if node.operation == "site":
            for values, output in zip(batches, (yield graph, node, inputs), strict=True):
                values[node.name] = Constant(output)
                for name in released:
                    del values[name]
        else:
            graph = before(graph, node, inputs) if before else graph
            for values in batches:
                run(graph, [(node, released)], values, graph.analog)
            if after:
                after(node, [values[node.name].mean() for values in batches])
    yield graph, node, [values[graph.output].mean() for values in batches]


def channel_mean(sub_batches: SubBatches) -> Tensor:
    """Mean over images and positions, [C], float64."""
    sums = [x.sum([d for d in range(x.dim()) if d != 1], dtype=torch.float64) for x in sub_batches]
    total = functools.reduce(torch.add, sums)
    return total * total.numel() / sum(x.numel() for x in sub_batches)
