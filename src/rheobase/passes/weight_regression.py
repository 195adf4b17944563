"""Weights fitted layer by layer by linear regression on the spikes of the layers before."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.core.seeds import generator
from rheobase.data import CalibrationData
from rheobase.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, OnNumbers
from rheobase.graph.operations.weighted import Weighted
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes
from rheobase.passes.held_out import HeldOut
from rheobase.passes.layers import Segment, layers, walk
from rheobase.signals import Constant

UNBOUNDED = -float("inf"), float("inf")
"""Bounds of a value that no neurons clip."""
MOVES = ("reshape", "permute", "select", "slice", "affine")
"""Operations that keep a value, but for its place and constant factors."""
ELEMENTS = 2**24
"""Elements of the regressors of a sub-batch of images."""


class WeightRegression(CalibrationPass):
    r"""Fit the weights of each layer so that its current matches the ANN's, given the spikes that it receives.

    With x̄ the time-mean of the spikes from the layers before, which are already fitted, and z the ANN's current at the
    same image and position,

    .. math::
        \min_{W, c} \; \sum \left\| W \bar x + c - z \right\|^2
        + \lambda \bar g \, \left\| (W, c) - (W_0, c_0) \right\|^2

    with ḡ the mean of the diagonal of the normal matrix: ridge regression towards the present weights, a linear system
    for each layer. The errors of spikes are correlated with the values that the spikes stand for (late spikes,
    saturation, small values rounded to 0), so weights that were trained for exact values are not the best ones for
    spikes; a bias corrects only the mean of such errors. In a residual block, the second convolution also corrects the
    errors of the shortcut.

    The targets are *rectified*: where the ANN's current and the present one are both below the activation's lower
    bound, or both above its upper bound, the error is 0. With more ``rounds`` the fit is repeated, with the fitted
    current as the present one.

    The weight stage of Li et al. 2021 (:class:`rheobase.passes.WeightCalibration`) minimises a similar error by
    gradient descent. A tensor that several operations share is not changed, nor is one whose output reaches the site
    through other operations than additions; where it reaches a node on numbers (``nonlinear="numbers"``), it is fitted
    to what this node reads in the ANN. The pass is reverted if it does not lower the logit error on held-out images.

    Args:
        ridge: λ > 0.
        rounds: number of fits of each layer.
        images: number of calibration images; default: all.
        positions: number of positions of all images that a layer is fitted to, a seeded sample.
        seed: seed of the positions.
    """

    kind: Literal["weight_regression"] = "weight_regression"
    ridge: float = Field(default=0.03, gt=0)
    rounds: int = Field(default=2, ge=1)
    images: int | None = Field(default=None, ge=1)
    positions: int = Field(default=2**16, ge=1)
    seed: int = 0

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Replace tensors of ``network.graph``; ``network.ann`` is not changed."""
        images = data.fit[: self.images]
        check, changes = HeldOut(network, data.held_out), Changes()
        shared, draws = shared_tensors(network.graph), generator(self.seed)
        read = before_numbers(network.graph, shared)
        exact: dict[str, Tensor] = {}

        def keep(node: Node, values: list[Tensor]) -> None:
            if node.name in read.values():
                exact[node.name] = torch.cat(values)

        analog = walk(network.ann, images, after=keep)
        _, node, currents = next(analog)
        for layer in track(layers(network, images), "fitting weights", show=progress, total=len(network.sites)):
            target = torch.cat(currents)
            outputs = [network.ann.analog(node, Constant(current)).mean() for current in currents]
            if layer.site.previous:
                lower, upper = layer.site.lower, layer.site.upper
                bounds = lower, float("inf") if upper is None else upper
                at_site = {one.name for one in fittable(layer, shared, changes.notes, read)}
                for one in layer.nodes:
                    if one.name in at_site:
                        names = self._fit(network, layer, one, target, bounds, draws)
                    elif one.name in read:
                        part = Segment(layer.nodes, layer.inputs, read[one.name])
                        names = self._fit(network, part, one, exact[part.source], UNBOUNDED, draws)
                    else:
                        continue
                    changes.changed.setdefault(layer.site.name, []).extend(names)
            exact.clear()
            _, node, currents = analog.send(outputs)
        changes.notes.append(check.keep_better())
        if network.graph is check.original.graph:
            changes.changed = {}
        return changes

    def _fit(
        self,
        network: SpikingNetwork,
        segment: Segment,
        node: Node,
        target: Tensor,
        bounds: tuple[float, float],
        draws: torch.Generator,
    ) -> list[str]:
        """Fit the weight and the bias of one node, and return their names."""
        graph = network.graph
        fitted = regress(graph, segment, node, target, bounds, self.ridge, self.rounds, self.positions, draws)
        tensors = {name: graph.tensor(name) + change for name, change in fitted.changes.items()}
        network.graph = graph.replace(tensors=tensors)
        return list(tensors)


@dataclass(frozen=True)
class Regression:
    """The fit of a weighted node to a target.

    Attributes:
        normal: sum over rows of the products of the regressors, [G, F, F], float64; with a bias the last one is 1.
        changes: what is added to the weight and to the bias, by the tensor's name.
    """

    normal: Tensor
    changes: dict[str, Tensor]


def regress(
    graph: Graph,
    segment: Segment,
    node: Node,
    target: Tensor,
    bounds: tuple[float | Tensor, float | Tensor],
    ridge: float,
    rounds: int,
    positions: int,
    draws: torch.Generator,
) -> Regression:
    """Fit one weighted node of a segment, so that its ``source`` comes near ``target``, [B, C, ...].

    The equation and the arguments are those of :class:`WeightRegression`; ``bounds`` are those of the activation, for
    all channels or [C].

    Raises:
        CalibrationError: if the node receives values that are not finite.
    """
    operation = cast(Weighted, OPERATIONS[node.operation])
    weight, bias = graph.tensor(node.parameters["weight"]), node.parameters.get("bias")
    values = segment.on_means(graph)
    x, current = values[node.inputs[0]].mean(), values[segment.source].mean()
    arguments: dict[str, Any] = {**node.attributes, "weight": weight}
    axis = range(target.dim())[operation.channels if operation.channels < 0 else operation.channels + 1]
    rows = [part.movedim(axis, -1).reshape(-1, part.shape[axis]) for part in (target, current)]
    chosen = torch.randperm(len(rows[0]), generator=draws)[:positions].sort().values.to(target.device)
    z, fitted = (part[chosen] for part in rows)
    features = _regressors(operation, x, arguments, chosen, len(rows[0]) // len(x))
    if bias is not None:
        features = torch.cat([features, features.new_ones(*features.shape[:2], 1)], 2)
    features = features.transpose(0, 1)  # [G, rows, F]
    groups = features.shape[0]
    normal = (features.mT @ features).double()
    if not bool(normal.isfinite().all()):
        reason = "receives spikes or weights that are not finite, or too large to be squared"
        raise CalibrationError(reason, where=node.name, remedy="check the weights and the scale of the images")
    scale = normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
    identity = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    factor = torch.linalg.cholesky(normal + ridge * scale[:, None, None] * identity)
    lower, upper = bounds
    change = features.new_zeros(groups, normal.shape[1], z.shape[1] // groups)
    start = fitted
    for _ in range(rounds):
        same = ((z < lower) & (fitted < lower)) | ((z > upper) & (fitted > upper))
        error = torch.where(same, fitted, z) - start
        products = features.mT @ error.reshape(len(error), groups, -1).transpose(0, 1)
        change = torch.cholesky_solve(products.double(), factor).to(features.dtype)
        fitted = start + (features @ change).transpose(0, 1).reshape(start.shape)
    per_channel = change.mT.reshape(weight.shape[0], -1)
    changes = {node.parameters["weight"]: per_channel[:, : weight[0].numel()].reshape(weight.shape)}
    if bias is not None:
        changes[bias] = per_channel[:, -1]
    return Regression(normal, changes)


def _regressors(operation: Weighted, x: Tensor, arguments: dict[str, Any], chosen: Tensor, positions: int) -> Tensor:
    """The regressors of chosen rows, [rows, G, F]; computed in sub-batches of images."""
    one = cast(Tensor, operation.regressors(x[:1], **arguments))
    size = max(1, ELEMENTS // one.numel())
    found = []
    for start in range(0, len(x), size):
        first, last = (torch.searchsorted(chosen, min(i, len(x)) * positions) for i in (start, start + size))
        rows = cast(Tensor, operation.regressors(x[start : start + size], **arguments))
        found.append(rows[chosen[first:last] - start * positions])
    return torch.cat(found)


def shared_tensors(graph: Graph) -> set[str]:
    """Names of tensors that several operations use."""
    used = [name for node in graph.nodes for name in node.parameters.values()]
    return {name for name in used if used.count(name) > 1}


def before_numbers(graph: Graph, shared: set[str]) -> dict[str, str]:
    """The weighted nodes whose output, or the sum that it is added to, is read by a node on numbers, and that sum."""
    readers, found = graph.users(), {}

    def is_read(name: str) -> bool:
        """True if a node on numbers reads the value, or moves and constant factors of it."""
        return any(
            isinstance(OPERATIONS.get(one.operation), OnNumbers) or (one.operation in MOVES and is_read(one.name))
            for one in readers[name]
        )

    for node in graph.nodes:
        operation = OPERATIONS.get(node.operation)
        if not isinstance(operation, Weighted) or type(operation).regressors is Weighted.regressors:
            continue
        if "weight" not in node.parameters or shared & {*node.parameters.values()}:
            continue
        reached = node
        while len(after := readers[reached.name]) == 1 and after[0].operation == "add":
            (reached,) = after
        if is_read(reached.name):
            found[node.name] = reached.name
    return found


def fittable(segment: Segment, shared: set[str], notes: list[str], others: Container[str] = frozenset()) -> list[Node]:
    """The weighted nodes of a segment, except ``others``, whose output reaches its end through additions only."""
    readers: dict[str, list[Node]] = {}
    for node in segment.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found = []
    for node in segment.nodes:
        operation = OPERATIONS.get(node.operation)
        if not isinstance(operation, Weighted) or "weight" not in node.parameters or node.name in others:
            continue
        reached, reason = node, "its output has several readers"
        while len(readers.get(reached.name, [])) == 1:
            (reached,) = readers[reached.name]
            if reached.operation != "add":
                reason = f"it is followed by {reached.operation}"
                break
        names = [name for name in node.parameters.values() if name in shared]
        if names:
            reason = f"several operations use {', '.join(names)}"
        elif type(operation).regressors is Weighted.regressors:
            reason = f"{node.operation} is not supported"
        elif reached.name == segment.source and (reached is node or reached.operation == "add"):
            found.append(node)
            continue
        notes.append(f"{node.name}: weights not fitted, {reason}")
    return found
