"""A NIR graph run by its definition, in float64 and plain loops: what the tests hold exports against.

Reset by subtraction, dt = 1, the same input at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def run(graph: Any, images: Tensor, timesteps: int) -> tuple[dict[str, Tensor], Tensor]:
    """(spikes of every IF node over all steps, time-mean of the output)."""
    trains, total = simulate(graph, images, timesteps, torch.ge)
    return {name: train.sum(0) for name, train in trains.items()}, total / timesteps


def simulate(
    graph: Any, images: Tensor, timesteps: int, fires: Callable[[Tensor, Tensor], Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """(spikes of every IF node at every step [T, B, ...], sum of the output); ``fires``: torch.ge or torch.gt."""
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    order = list(TopologicalSorter(before).static_order())
    potentials: dict[str, Tensor] = {}
    trains: dict[str, list[Tensor]] = {}
    total = torch.zeros(())
    for _ in range(timesteps):
        values: dict[str, Tensor] = {}
        for name in order:
            node = graph.nodes[name]
            x = images.double() if not before[name] else sum(values[source] for source in before[name])
            kind = type(node).__name__
            if kind == "IF":
                assert (node.r == 1).all()
                theta = torch.from_numpy(np.array(node.v_threshold)).double()
                u = potentials.get(name, torch.zeros_like(x)) + x
                spikes = fires(u, theta).double()
                potentials[name] = torch.where(spikes > 0, u - theta, u)
                trains.setdefault(name, []).append(spikes)
                values[name] = spikes
            else:
                values[name] = _affine(kind, node, x)
            if kind == "Output":
                total = total + values[name]
    return {name: torch.stack(train) for name, train in trains.items()}, total


def _affine(kind: str, node: Any, x: Any) -> Tensor:
    tensors = {k: torch.from_numpy(np.array(getattr(node, k))).double() for k in ("weight", "bias") if hasattr(node, k)}
    if kind in ("Input", "Output"):
        return x
    if kind == "Affine":
        return x @ tensors["weight"].T + tensors["bias"]
    if kind in ("Conv1d", "Conv2d"):
        numbers = [np.asarray(n).tolist() for n in (node.stride, node.padding, node.dilation)]
        convolve = F.conv1d if kind == "Conv1d" else F.conv2d
        return convolve(x, tensors["weight"], tensors["bias"], *numbers, int(node.groups))
    if kind == "SumPool2d":
        kernel, stride, padding = (np.asarray(n).tolist() for n in (node.kernel_size, node.stride, node.padding))
        return F.avg_pool2d(x, kernel, stride, padding, divisor_override=1)
    assert kind == "Flatten", kind
    assert (int(node.start_dim), int(node.end_dim)) == (1 - x.dim(), -1)
    return x.flatten(1)
