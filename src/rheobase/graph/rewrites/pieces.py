"""Functions of one variable as sums of clips, each of which is a layer of neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import in_memory_format
from rheobase.graph.operations.numbers import function_of
from rheobase.graph.operations.pointwise import Elementwise, Slopes
from rheobase.graph.trace.call import Note
from rheobase.graph.trace.capture import Capture
from rheobase.graph.trace.nonlinear import ON_NUMBERS, Nonlinear, notes_on_numbers, on_numbers
from rheobase.signals.signal import Constant, Signal

PIECES = 8
"""Straight pieces of a function, each a layer of neurons."""
GRID = 1024
"""Points at which a function and the distribution of its argument are known."""
SUB_BATCH, SAMPLE = 16, 2**16


def replace_functions(found: Capture, choice: Nonlinear, images: Tensor) -> Capture:
    """Apply the caller's choice: for ``"neurons"``, straight pieces for functions of one variable."""
    return as_pieces(found, images) if choice == "neurons" else found


def as_pieces(found: Capture, images: Tensor, pieces: int = PIECES) -> Capture:
    r"""Replace every function of one variable by straight pieces, which are clips: sites with neurons.

    .. math:: f(x) \approx f(b_0) + \sum_{i=0}^{K-1} \frac{f(b_{i+1}) - f(b_i)}{b_{i+1} - b_i}
        \mathrm{clip}(x - b_i, 0, b_{i+1} - b_i)

    from the least to the largest argument on the images. The points b have the density of least squared error for the
    distribution p of the arguments, :math:`(f''^2 p)^{1/5}` (de Boor 1973). A leaky ReLU is exact, with two layers.
    The function of the analog network changes; a note states the error of each node on the images.

    Args:
        found: traced with nodes on numbers; those of several variables are refusals in the result.
        images: [N, ...], such as calibration images; at most 64 are used.
        pieces: K.
    """
    written_before = set(notes_on_numbers(found.graph.nodes))
    rewrites = [note for note in found.rewrites if note not in written_before]
    several = [node for node in on_numbers(found.graph.nodes) if node.operation not in (Elementwise.name, Slopes.name)]
    if several or found.refusals:
        text = "combines several values, which neurons of one function cannot"
        notes = [Note(node.origin, f"{function_of(node)}: {text}", ON_NUMBERS) for node in several]
        return Capture(found.graph, rewrites, [*found.refusals, *notes])
    graph = found.graph
    read = {node.inputs[0] for node in graph.nodes if node.operation == Elementwise.name}
    arguments = _arguments(graph, read, images[:64])
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.operation == Slopes.name:
            nodes += _leaky(graph, node, tensors)
            rewrites.append(Note(node.origin, f"{function_of(node)}: is exact, with two layers of neurons"))
        elif node.operation == Elementwise.name:
            written, error = _written(graph, node, arguments[node.inputs[0]], pieces, tensors)
            nodes += written
            number = len(written) // 3
            text = f"{function_of(node)}: {number} straight pieces, each a layer of neurons, which differ from it by"
            rewrites.append(Note(node.origin, f"{text} {error:.2g} of its size on {len(images[:64])} images"))
        else:
            nodes.append(node)
    return Capture(graph.replace(nodes=nodes, tensors=tensors), rewrites, [])


@torch.no_grad()
def _arguments(graph: Graph, names: set[str], images: Tensor) -> dict[str, Tensor]:
    """Values of some nodes on the images, each in one row: an even sample, with the smallest and the largest."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    plan = schedule(graph.nodes[1:], keep=names)
    for part in images.split(SUB_BATCH):
        values: dict[str, Signal] = {graph.nodes[0].name: Constant(in_memory_format(part.to(graph.device)))}
        run(graph, plan, values, graph.analog)
        for name in names:
            row = values[name].mean().flatten().double()
            found[name] += [row[:: max(1, len(row) // SAMPLE)], row.min()[None], row.max()[None]]
    return {name: torch.cat(parts) for name, parts in found.items()}


def _written(
    graph: Graph, node: Node, argument: Tensor, pieces: int, tensors: dict[str, Tensor]
) -> tuple[list[Node], float]:
    """The nodes of a function, and its relative error on the arguments."""

    def function(x: Tensor) -> Tensor:
        return graph.compute(node, Constant(x.to(graph.dtype).reshape(1, -1))).mean().double().flatten()

    points = break_points(function, argument, pieces)
    values = function(points)
    slopes = values.diff() / points.diff()
    approximate = values[0] + sum(
        slope * (argument - start).clamp(0, float(end - start))
        for slope, start, end in zip(slopes, points[:-1], points[1:], strict=True)
    )
    exact = function(argument)
    error = float((approximate - exact).norm() / exact.norm().clamp(min=1e-30))
    terms = [
        _clip(
            graph,
            node,
            f"piece{i}",
            (1.0, -float(start)),
            float(end - start),
            {"scale": float(slope)} | ({} if i else {"shift": float(values[0])}),
            tensors,
        )
        for i, (slope, start, end) in enumerate(zip(slopes, points[:-1], points[1:], strict=True))
    ]
    nodes = [one for term in terms for one in term]
    ends = [term[-1].name for term in terms]
    total = Node(node.name, "add", tuple(ends), {}, {}, node.shape, node.origin)
    return [*nodes, total], error


def break_points(function: Callable[[Tensor], Tensor], argument: Tensor, pieces: int) -> Tensor:
    """K + 1 points, from the least to the largest argument, float64."""
    least, most = float(argument.min()), float(argument.max())
    if most <= least:
        most = least + 1.0
    grid = torch.linspace(least, most, GRID, dtype=torch.float64)
    density = torch.histc(argument, GRID, least, most) / len(argument)
    curvature = torch.zeros_like(grid)
    curvature[1:-1] = function(grid).diff(n=2) / (grid[1] - grid[0]) ** 2
    weight = (curvature.square() * (density + 1e-6)).pow(0.2)
    share = (weight + weight.mean().clamp(min=1e-30) * 1e-2).cumsum(0)
    wanted = torch.linspace(0, 1, pieces + 1, dtype=torch.float64) * share[-1]
    index = torch.searchsorted(share, wanted).clamp(max=GRID - 1)
    index[0], index[-1] = 0, GRID - 1
    return grid[index.unique()]


def _clip(
    graph: Graph,
    node: Node,
    label: str,
    line: tuple[float, float],
    upper: float | None,
    after: Mapping[str, float | Tensor],
    tensors: dict[str, Tensor],
) -> list[Node]:
    """``slope * clip(a x + b, 0, upper) + shift``: an affine node, a site, an affine node with slope and shift."""
    scale, shift = line
    name, given = f"{node.name}.{label}", {"shift": shift} if scale == 1 else {"scale": scale, "shift": shift}
    before = _affine(graph, f"{name}.before", node.inputs[0], node, given, tensors)
    attributes = {"activation": "relu", "upper": upper}
    site = Node(name, "site", (before.name,), attributes, {}, node.shape, f"{label} of {node.origin or node.name}")
    return [before, site, _affine(graph, f"{name}.after", name, node, after, tensors)]


def _affine(
    graph: Graph, name: str, source: str, node: Node, given: Mapping[str, float | Tensor], tensors: dict[str, Tensor]
) -> Node:
    """An affine node at the place of a node."""
    parameters = {argument: f"{name}.{argument}" for argument in given}
    for argument, value in given.items():
        tensors[parameters[argument]] = torch.as_tensor(value, dtype=graph.dtype, device=graph.device)
    return Node(name, "affine", (source,), {}, parameters, node.shape, node.origin)


def _leaky(graph: Graph, node: Node, tensors: dict[str, Tensor]) -> list[Node]:
    """``positive * relu(x) - negative * relu(-x)``."""
    positive, negative = (graph.tensor(node.parameters[name]) for name in ("positive", "negative"))
    above = _clip(graph, node, "positive", (1.0, 0.0), None, {"scale": positive}, tensors)
    below = _clip(graph, node, "negative", (-1.0, 0.0), None, {"scale": -negative}, tensors)
    total = Node(node.name, "add", (above[-1].name, below[-1].name), {}, {}, node.shape, node.origin)
    return [*above, *below, total]
