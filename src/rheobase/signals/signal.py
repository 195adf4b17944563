"""What flows on an edge: a spike train, any other time series, or a constant.

- A :class:`SpikeTrain` leaves a site: a whole number of spikes at every step, each worth the same amplitude.
- A :class:`TimeSeries` is what affine operations make of it: one value for each step, no spikes any more.
- A :class:`Constant` is the same at every step: the image, a time-mean. Affine work on it is done once, whatever T is;
  that is where the speed of the first segment, of the readout and of every method with a constant current comes from.
- A :class:`MeanSpikes` is a constant that stands for a train: the time-mean of one that was not simulated.

:func:`count_spikes` is the one definition of how many spikes there were; evaluation, energy and diagnosis ask it.
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
class MeanSpikes(Constant):
    """The time-mean of a spike train that was computed in closed form. ``values``: [B, C, ...].

    Attributes:
        amplitude: of one spike, [] or [C].
        steps: T.
    """

    amplitude: Tensor
    steps: int


@dataclass(frozen=True)
class TimeSeries:
    """One value for each step. ``values``: [T, B, ...], in activation units."""

    values: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return self.values.shape[0]

    def mean(self) -> Tensor:
        """Time-mean, [B, ...]."""
        return self.values.mean(0)


@dataclass(frozen=True)
class SpikeTrain(TimeSeries):
    """What a site emits. ``values``: amplitude times the number of spikes at each step, [T, B, C, ...].

    Attributes:
        amplitude: of one spike, [] or [C]; a channel that never fires may have an infinite one.

    Example:
        >>> train = SpikeTrain(torch.tensor([1.0, 0.0, -0.5]).reshape(3, 1, 1), torch.tensor(0.5))
        >>> train.counts.flatten()
        tensor([ 2.,  0., -1.])
    """

    amplitude: Tensor

    @property
    def counts(self) -> Tensor:
        """Spikes at each step, negative ones with their sign: whole numbers, [T, B, C, ...]."""
        return _in_spikes(self.values, self.amplitude, axis=2)


Signal = Constant | TimeSeries


@dataclass(frozen=True)
class SpikeCounts:
    """How many spikes every neuron emitted in all steps, [B, C, ...], whole numbers in float64.

    A neuron that emits at most one spike a step has as many events as spikes. One that emits k at once has one event of
    magnitude |k|.

    Attributes:
        events: steps at which it emitted anything.
        magnitude: spikes, those of either sign.
        net: positive spikes less negative ones: what its time-mean says.
    """

    events: Tensor
    magnitude: Tensor
    net: Tensor


def count_spikes(emitted: Signal) -> SpikeCounts:
    """Count the spikes that a site emitted.

    Args:
        emitted: a :class:`SpikeTrain`; or the time-mean of one (:class:`MeanSpikes`) from neurons that emit at most one
            spike a step, all of the same sign.

    Example:
        >>> train = SpikeTrain(torch.tensor([1.0, 0.0, -0.5]).reshape(3, 1, 1), torch.tensor(0.5))
        >>> found = count_spikes(train)
        >>> found.events.item(), found.magnitude.item(), found.net.item()
        (2.0, 3.0, 1.0)
    """
    if isinstance(emitted, MeanSpikes):
        net = _in_spikes(emitted.values.double() * emitted.steps, emitted.amplitude, axis=1)
        return SpikeCounts(net.abs(), net.abs(), net)
    if not isinstance(emitted, SpikeTrain):
        raise TypeError(f"a {type(emitted).__name__} is no spike train")
    values = emitted.values
    net = _in_spikes(values.sum(0, dtype=torch.float64), emitted.amplitude, axis=1)
    magnitude = _in_spikes(values.abs().sum(0, dtype=torch.float64), emitted.amplitude, axis=1)
    return SpikeCounts(values.count_nonzero(0).double(), magnitude, net)


@dataclass(frozen=True)
class StepCounts:
    """Spikes of all neurons and images together at each step, [T], whole numbers in float64. See SpikeCounts."""

    events: Tensor
    magnitude: Tensor


def count_spikes_by_step(train: SpikeTrain) -> StepCounts:
    """Count the spikes of all neurons at each step."""
    events = torch.stack([torch.count_nonzero(step) for step in train.values]).double()
    by_channel = [
        step.abs().sum([d for d in range(step.dim()) if d != 1], dtype=torch.float64) for step in train.values
    ]
    magnitude = _in_spikes(torch.stack(by_channel), train.amplitude, axis=1).sum(1)
    return StepCounts(events, magnitude)


def _in_spikes(values: Tensor, amplitude: Tensor, axis: int) -> Tensor:
    """Values in activation units as whole numbers of spikes; 0 for channels that never fire. Channels on ``axis``."""
    amplitude = amplitude.to(values.device, values.dtype)
    if amplitude.dim():
        amplitude = amplitude.reshape((-1,) + (1,) * (values.dim() - 1 - axis))
    silent = amplitude.isinf() | (amplitude == 0)
    return torch.where(silent, 0.0, values / torch.where(silent, 1.0, amplitude)).round()


def along_channels(parameter: Tensor, dims: int) -> Tensor:
    """View a [C] parameter so that it broadcasts along axis 1 of a tensor with ``dims`` axes; others unchanged."""
    return parameter.reshape((-1,) + (1,) * (dims - 2)) if parameter.dim() == 1 else parameter


def step_by_step(signal: Signal, steps: int) -> Tensor:
    """The values of ``steps`` steps, [T, B, ...]; a time series must have that many."""
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
