"""Compare a traced graph with its network: on the example, on random inputs and on calibration images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import cast

import torch
from torch import Tensor

from rheobase.core.errors import ModelError, TraceError
from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.trace.outputs import Traced, outputs_of
from rheobase.signals.signal import Constant, Signal

TOLERANCE = 1e-4
"""Largest difference of the outputs, divided by the largest output, that rounding may cause."""
RANDOM_IMAGES = 3
CALIBRATION_IMAGES = 8

Function = Callable[[Tensor], Tensor]


def inputs_to_compare(example: Tensor, images: Tensor | None) -> dict[str, Tensor]:
    """The batches on which the graph and the network must agree, by their names in messages.

    The random inputs have the mean, deviation and range of the example; if it is constant, they are standard normal and
    uniform from 0 to 1. Their seed is fixed.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (RANDOM_IMAGES, *example.shape[1:])
    low, high = float(example.min()), float(example.max())
    mean, deviation = float(example.mean()), float(example.std(correction=0))
    if low == high:
        low, high, mean, deviation = 0.0, 1.0, 0.0, 1.0
    normal = torch.randn(shape, generator=generator) * deviation + mean
    uniform = torch.rand(shape, generator=generator) * (high - low) + low
    batches = {"normally distributed random inputs": normal, "uniformly distributed random inputs": uniform}
    if images is not None and images.shape[1:] == example.shape[1:]:
        batches["calibration images"] = images[:CALIBRATION_IMAGES]
    return {"the example": example, **{name: batch.to(example) for name, batch in batches.items()}}


@torch.no_grad()
def check_agreement(
    graph: Graph,
    network: Traced,
    batches: Mapping[str, Tensor],
    functions: Mapping[str, Function],
    tolerance: float = TOLERANCE,
) -> None:
    """Refuse a graph whose outputs differ from the network's.

    Batches on which the network itself fails or is not finite are skipped.

    Args:
        graph: as traced.
        network: the network, with the outputs that were traced.
        batches: input batches by name; the first is the example.
        functions: node -> function of its input, for nodes that the graph does not compute itself.
        tolerance: largest difference, divided by the largest output.

    Raises:
        TraceError: naming the batch, the difference, and the first layer with different values.
    """
    for name, batch in batches.items():
        try:
            expected = network(batch)
        except Exception:  # the network refuses these values, and is never called on them
            continue
        if not bool(torch.isfinite(expected).all()):
            continue
        try:
            difference = _difference(graph, expected, batch, functions)
        except ModelError:  # a value within is infinite
            continue
        if difference <= tolerance or _agree_in_double(graph, network, batch, functions):
            continue
        reason = f"differs from its traced graph on {name}: by {difference:.2g} of the largest output"
        if layer := _first_difference(graph, network, batch, functions):
            reason += f", and first at {layer}"
        remedy = "replace operations before it that depend on the batch, on values or on earlier calls"
        raise TraceError(reason, where="the network", remedy=f"{remedy}; if there are none, report the error")


def _difference(graph: Graph, expected: Tensor, batch: Tensor, functions: Mapping[str, Function]) -> float:
    found = _values(graph, batch, functions, keep={graph.output})[graph.output]
    pairs = zip(*(outputs_of(graph.unpack(value)).values() for value in (found, expected)), strict=True)
    return max(relative_difference(value, reference) for value, reference in pairs)


def _agree_in_double(graph: Graph, network: Traced, batch: Tensor, functions: Mapping[str, Function]) -> bool:
    """True if the difference is rounding: a quantised activation or a deep network amplifies it in float32."""
    try:
        exact, expected = copy.deepcopy(graph).double(), network.double()(batch.double())
        return _difference(exact, expected, batch.double(), functions) <= TOLERANCE
    except Exception:  # code with a fixed dtype
        return False


def _values(graph: Graph, batch: Tensor, functions: Mapping[str, Function], keep: Collection[str]) -> dict[str, Tensor]:
    """Values of the nodes in ``keep``."""
    values: dict[str, Signal] = {graph.nodes[0].name: Constant(in_memory_format(batch))}

    def nonlinear(node: Node, signal: Signal) -> Signal:
        if node.name in functions:
            return Constant(functions[node.name](signal.mean()))
        return graph.analog(node, signal)

    run(graph, schedule(graph.nodes[1:], keep), values, nonlinear)
    return {name: value.mean() for name, value in values.items()}


def _first_difference(graph: Graph, network: Traced, batch: Tensor, functions: Mapping[str, Function]) -> str | None:
    """The first node that is a whole module of the network, and has other values than the module."""
    returned: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, value, path=path: returned.setdefault(path, value))
        for path, module in network.network.named_modules()
        if path and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        network(batch)
    finally:
        for handle in handles:
            handle.remove()
    values = _values(graph, batch, functions, keep=[node.name for node in graph.nodes])
    for node in graph.nodes:
        value, expected = values[node.name], returned.get(node.name)
        comparable = isinstance(expected, Tensor) and expected.shape == value.shape
        if comparable and relative_difference(value, cast(Tensor, expected)) > TOLERANCE:
            return node.name
    return None


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference, divided by the largest absolute reference value."""
    scale = float(reference.abs().max())
    return float((value - reference).abs().max()) / (scale if scale > 0 else 1.0)
