"""Lookup tables for functions of one variable, in place of nodes that compute them on numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, in_memory_format
from rheobase.graph.operations.lookup import Lookup
from rheobase.graph.operations.numbers import function_of
from rheobase.graph.operations.pointwise import Elementwise, Slopes
from rheobase.graph.trace.nonlinear import on_numbers
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.network.target import Target
from rheobase.signals.signal import Constant, Signal

ENTRY_BITS = 16
"""The largest width of an entry."""
NARROWEST = 1 / 64
"""The least range of a table relative to its largest input: a narrower one has fewer entries."""


@dataclass(frozen=True)
class Table:
    """A function at the points of a grid, in natural units.

    Attributes:
        values: f(i δ) for the indices i from ``first`` on, [E] or [..., E], float64; all finite.
        first: the first index.
        per_threshold: the number of steps δ in ``reach``.
        reach: the largest absolute input on the images, for which the threshold of the node stands.
    """

    values: Tensor
    first: int
    per_threshold: int
    reach: float


def check_numbers(network: SpikingNetwork, target: Target) -> None:
    """Refuse nodes on numbers that have no table.

    Raises:
        RecipeError: for a function of several values, or if the target has no tables, naming the node.
    """
    for node in on_numbers(network.graph.nodes):
        function, where = function_of(node), node.origin or node.name
        if node.operation not in (Elementwise.name, Slopes.name):
            reason = f"computes {function}, a function of several values, which has no form in whole numbers"
            remedy = "replace it and train again: a norm by batch normalisation, gates and attention by ReLU layers"
            raise RecipeError(reason, where=where, remedy=remedy)
        if not target.tables:
            reason = f"computes {function}, which takes a lookup table, and {target.name} has none"
            remedy = 'use target="generic", or train the network with ReLU in its place'
            raise RecipeError(reason, where=where, remedy=remedy)


@torch.no_grad()
def make_tables(network: SpikingNetwork, images: Tensor, target: Target) -> dict[str, Table]:
    """The table of every function of one variable, over the range of its input on the images, by the node's name."""
    functions = on_numbers(network.graph.nodes)
    ranges = _ranges(network, {node.inputs[0] for node in functions}, images) if functions else {}
    graph = network.graph.on(torch.device("cpu"))
    return {node.name: _table(graph, node, *ranges[node.inputs[0]], 2**target.tables) for node in functions}


def _ranges(network: SpikingNetwork, names: set[str], images: Tensor) -> dict[str, tuple[float, float]]:
    """The smallest and the largest time-mean of some values of the simulation."""
    found = dict.fromkeys(names, (float("inf"), -float("inf")))
    plan = schedule((*network.nodes[1:], *network.readout_nodes), keep=names)
    for part in images.split(network.sub_batch_size(network.timesteps)):
        values: dict[str, Signal] = {network.graph.nodes[0].name: Constant(in_memory_format(network.at_input(part)))}
        run(network.graph, plan, values, Simulation(network).advance(network.timesteps))
        for name, (low, high) in found.items():
            mean = values[name].mean()
            found[name] = min(low, float(mean.min())), max(high, float(mean.max()))
    return found


def _table(graph: Graph, node: Node, low: float, high: float, entries: int) -> Table:
    """The table with at most ``entries`` entries from ``low`` to ``high``."""
    reach = max(-low, high) or 1.0
    per_threshold = max(1, int((entries - 1) * reach / max(high - low, reach * NARROWEST)))
    first, last = (round(end * per_threshold / reach) for end in (low, high))
    last = min(last, first + entries - 1)
    points = torch.arange(first, last + 1, dtype=torch.float64, device=graph.device) * (reach / per_threshold)
    parameters = {argument: graph.tensor(name).double() for argument, name in node.parameters.items()}
    parameters = {argument: t[..., None] if t.numel() > 1 else t.reshape(()) for argument, t in parameters.items()}
    values = OPERATIONS[node.operation].apply(points[None], **node.attributes, **parameters)
    values = values if values[..., 0].numel() > 1 else values.flatten()
    return Table(_finite(node, values), first, per_threshold, reach)


def _finite(node: Node, values: Tensor) -> Tensor:
    """The values, with the nearest finite one in place of those at a pole."""
    finite = values.isfinite().reshape(-1, values.shape[-1]).all(0)
    if bool(finite.all()):
        return values
    if not bool(finite.any()):
        reason = f"computes {function_of(node)}, which is NaN or infinite on the range of its input"
        remedy = "bound its input in the network, as in log(x + 1e-3)"
        raise RecipeError(reason, where=node.origin or node.name, remedy=remedy)
    known = finite.nonzero().flatten()
    places = torch.arange(len(finite), device=values.device)
    after = torch.searchsorted(known, places).clamp(max=len(known) - 1)
    before, next_one = known[(after - 1).clamp(min=0)], known[after]
    return values[..., torch.where((places - before).abs() < (next_one - places).abs(), before, next_one)]


def largest_entry(target: Target, steps: int) -> int:
    """The largest entry: four times its sum over all steps fits into a potential, since the steps are differences."""
    return int(min(2 ** (ENTRY_BITS - 1) - 1, max(1, 2 ** (target.state - 3) // steps)))


def write_lookups(graph: Graph, tables: Mapping[str, Table], most: int) -> Graph:
    """Write a lookup in place of each node that has a table, with entries up to ``most``, and natural units outside.

    The gain is what an entry stands for; the threshold is 1 until the grids are chosen.
    """
    nodes, tensors = [], dict[str, Tensor]()
    for node in graph.nodes:
        table = tables.get(node.name)
        if table is not None:
            unit = float(table.values.abs().max()) / most or 1.0
            one = torch.ones((), dtype=torch.float64, device=graph.device)
            given = {"table": (table.values / unit).round(), "gain": one * unit, "threshold": one}
            parameters = {argument: f"{node.name}.{argument}" for argument in given}
            tensors |= {parameters[argument]: tensor for argument, tensor in given.items()}
            attributes = {"function": function_of(node), "first": table.first, "per_threshold": table.per_threshold}
            node = Node(node.name, Lookup.name, node.inputs, attributes, parameters, node.shape, node.origin)
        nodes.append(node)
    return graph.replace(nodes=nodes, tensors=tensors)
