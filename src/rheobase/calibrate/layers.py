"""The simulation layer by layer: a site's steps and images all at once, for passes that look at time-means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.alignment import OPERATION as ALIGN
from rheobase.graph.ir import Graph, Node, run
from rheobase.graph.operations import in_memory_format
from rheobase.network import Simulation, SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.signal import Held, Signal, Train, step_by_step
from rheobase.sites import Site


@dataclass(frozen=True)
class Layer:
    """A site about to fire, and the operations that only it, of all sites so far, needs.

    Attributes:
        site: the site.
        neuron: its neurons.
        nodes: the operations, in execution order.
        inputs: what they read: trains that earlier sites emitted, or held values.
        source: the value that the site reads.
    """

    site: Site
    neuron: Neuron
    nodes: tuple[Node, ...]
    inputs: dict[str, Signal]
    source: str

    def signals(self, network: SpikingNetwork) -> dict[str, Signal]:
        """Values of the inputs and all nodes, with the weights that the network has now."""
        values = dict(self.inputs)
        run(network.graph, [(node, ()) for node in self.nodes], values, Simulation(network).advance(network.timesteps))
        return values

    def fire(self, network: SpikingNetwork, signal: Signal) -> Tensor:
        """``amplitude * spikes`` [T, B, C, ...] that the neurons emit, as they are now, for their current."""
        currents = step_by_step(signal, network.steps_of(self.site.name))
        return self.neuron.run(currents, self.neuron.init(currents.shape[1:], currents[0]))[0]

    def mean_current(self, graph: Graph, means: dict[str, Tensor]) -> Tensor:
        """The site's mean current for given time-means of ``inputs``; differentiable in the weights of ``graph``.

        Exact, because the operations are affine; a max-pool gate counts as the maximum.
        """
        values: dict[str, Signal] = {name: Held(mean) for name, mean in means.items()}
        run(graph, [(node, ()) for node in self.nodes], values, graph.analog)
        return values[self.source].mean()


def layers(network: SpikingNetwork, images: Tensor) -> Iterator[Layer]:
    """Every site in execution order, each before it fires.

    What the caller changes of a layer's neurons or weights before it asks for the next layer is what the layer fires
    with. One pass costs one simulation, and memory for the live signals of all steps and images at once.

    Args:
        network: the network; its ``graph`` may be replaced on the way by one with the same nodes.
        images: [B, ...], all simulated together.
    """
    nodes = {node.name: node for node in network.nodes}
    groups = _first_needed(network)
    last_read: dict[str, int] = {}
    for site, group in zip(network.sites, groups, strict=True):
        for node in (*group, nodes[site.name]):
            last_read |= dict.fromkeys(node.inputs, site.index)
    values: dict[str, Signal] = {network.graph.nodes[0].name: Held(in_memory_format(images.to(network.graph.device)))}
    for site, group in zip(network.sites, groups, strict=True):
        (source,) = nodes[site.name].inputs
        read = {source, *(name for node in group for name in node.inputs)}
        inputs = {name: values[name] for name in read & set(values)}
        layer = Layer(site, network.neuron(site.name), tuple(group), inputs, source)
        yield layer
        with torch.inference_mode():
            values |= layer.signals(network)
            values[site.name] = Train(layer.fire(network, values[source]))
            for node in network.nodes:
                if node.operation == ALIGN and node.inputs == (site.name,):
                    values[node.name] = Simulation(network).advance(network.timesteps)(node, values[site.name])
        values = {name: value for name, value in values.items() if last_read.get(name, -1) > site.index}


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
