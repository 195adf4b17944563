"""What flows on an edge: a train of T steps, or one value held for all of them.

Affine work on a held value is done once, whatever T is; that is where the speed of the first segment, of the readout
and of every method with a constant current comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constant:
    """The same value at every step. ``values``: [B, ...], in activation units."""

    values: Tensor

    def mean(self) -> Tensor:
        """Time-mean, [B, ...]."""
        return self.values


@dataclass(frozen=True)
class TimeSeries:
    """One value for each step. ``values``: [T, B, ...], in activation units (spike times amplitude)."""

    values: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return self.values.shape[0]

    def mean(self) -> Tensor:
        """Time-mean, [B, ...]."""
        return self.values.mean(0)


Signal = Constant | TimeSeries


def along_channels(parameter: Tensor, dims: int) -> Tensor:
    """View a [C] parameter so that it broadcasts along axis 1 of a tensor with ``dims`` axes; others unchanged."""
    return parameter.reshape((-1,) + (1,) * (dims - 2)) if parameter.dim() == 1 else parameter


def step_by_step(signal: Signal, steps: int) -> Tensor:
    """The values of ``steps`` steps, [T, B, ...]; those of a train are as many."""
    if isinstance(signal, Constant):
        return signal.values.expand(steps, *signal.values.shape)
    assert signal.steps == steps, "a train that was not aligned"
    return signal.values


def lift(function: Callable[..., Tensor], *signals: Signal) -> Signal:
    """Apply a batch-first function to every step of its inputs; once only, when all of them are held.

    Where trains of different lengths meet, each counts with its time-mean, which holds for all steps: on the way to
    neurons that wait for their whole input, and to the readout. On the way to others they are aligned before they meet.

    Example:
        >>> lift(torch.neg, Constant(torch.ones(2, 3))).values.shape
        torch.Size([2, 3])
        >>> lift(torch.add, Constant(torch.ones(2, 3)), TimeSeries(torch.ones(4, 2, 3))).values.shape
        torch.Size([4, 2, 3])
    """
    trains = [s for s in signals if isinstance(s, TimeSeries)]
    if len({s.steps for s in trains}) > 1:
        signals = tuple(Constant(s.mean()) for s in signals)
        trains = []
    if not trains:
        return Constant(function(*(s.values for s in signals)))
    steps, batch = trains[0].values.shape[:2]
    flat = [
        (s.values if isinstance(s, TimeSeries) else s.values.expand(steps, *s.values.shape)).flatten(0, 1)
        for s in signals
    ]
    return TimeSeries(function(*flat).unflatten(0, (steps, batch)))


def prefix_means(signal: Signal, timesteps: tuple[int, ...]) -> Tensor:
    """Time-means over the first t steps for each t asked for, [R, B, ...] (R = number of t).

    The sums run forward in time, so that the mean at t is the same number whether or not the run went on after t.
    """
    if isinstance(signal, Constant):
        return signal.values.expand(len(timesteps), *signal.values.shape)
    wanted = {t: i for i, t in enumerate(timesteps)}
    assert max(timesteps) <= signal.steps, "a train is read beyond its end"
    means = signal.values.new_empty(len(timesteps), *signal.values.shape[1:])
    total = torch.zeros_like(signal.values[0])
    for t, value in enumerate(signal.values[: max(timesteps)], start=1):
        total += value
        if t in wanted:
            torch.div(total, t, out=means[wanted[t]])
    return means
