"""The signal on an edge: a spike train, any other time series, or a constant.

Affine operations on a :class:`Constant` are computed once for all T, which makes the first segment, the readout and
methods with a constant current fast. :func:`count_spikes` defines the number of spikes for evaluation, energy and
diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constant:
    """The same value at every step, such as the image or a time-mean. ``values``: [B, ...], in activation units."""

    values: Tensor

    def mean(self) -> Tensor:
        """Time-mean, [B, ...]."""
        return self.values


@dataclass(frozen=True)
class MeanSpikes(Constant):
    """The time-mean of a spike train, computed in closed form. ``values``: [B, C, ...].

    Attributes:
        amplitude: value of one spike, [] or [C].
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
    """The output of a site. ``values``: amplitude times the number of spikes at each step, [T, B, C, ...].

    Attributes:
        amplitude: value of one spike, [] or [C]; may be infinite for a silent channel.

    Example:
        >>> spikes = SpikeTrain(torch.tensor([1.0, 0.0, -0.5]).reshape(3, 1, 1), torch.tensor(0.5))
        >>> spikes.counts.flatten()
        tensor([ 2.,  0., -1.])
    """

    amplitude: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of spikes at each step, negative for negative spikes: whole numbers, [T, B, C, ...]."""
        return _in_spikes(self.values, self.amplitude, axis=2)


@dataclass(frozen=True)
class Averaged(TimeSeries):
    """A time series whose running means are known, and not only sums of its values, in which small numbers are lost.

    Attributes:
        means: mean over all steps of the run up to each of these, [T, B, ...].
    """

    means: Tensor


Signal = Constant | TimeSeries
"""The signal on an edge: a time series of T steps, which may be a spike train, or a constant."""


@dataclass(frozen=True)
class SpikeCounts:
    """Number of spikes of every neuron over all steps, [B, C, ...], whole numbers in float64.

    k spikes in one step are one event of magnitude |k|. Events and magnitude are equal for neurons that emit at most
    one spike per step.

    Attributes:
        events: number of steps with a non-zero emission.
        magnitude: number of spikes of either sign.
        net: positive spikes less negative ones, which determine the time-mean.
    """

    events: Tensor
    magnitude: Tensor
    net: Tensor


def count_spikes(emitted: Signal) -> SpikeCounts:
    """Count the spikes that a site emitted.

    Args:
        emitted: a :class:`SpikeTrain`; or its time-mean (:class:`MeanSpikes`), for neurons that emit at most one spike
            per step, all of the same sign.

    Raises:
        TypeError: for any other signal.

    Example:
        >>> spikes = SpikeTrain(torch.tensor([1.0, 0.0, -0.5]).reshape(3, 1, 1), torch.tensor(0.5))
        >>> counts = count_spikes(spikes)
        >>> counts.events.item(), counts.magnitude.item(), counts.net.item()
        (2.0, 3.0, 1.0)
    """
    if isinstance(emitted, MeanSpikes):
        net = _in_spikes(emitted.values.double() * emitted.steps, emitted.amplitude, axis=1)
        return SpikeCounts(net.abs(), net.abs(), net)
    if not isinstance(emitted, SpikeTrain):
        raise TypeError(f"emitted: is a {type(emitted).__name__}. Remedy: pass a SpikeTrain or MeanSpikes.")
    values = emitted.values
    net = _in_spikes(values.sum(0, dtype=torch.float64), emitted.amplitude, axis=1)
    magnitude = _in_spikes(values.abs().sum(0, dtype=torch.float64), emitted.amplitude, axis=1)
    return SpikeCounts(values.count_nonzero(0).double(), magnitude, net)


@dataclass(frozen=True)
class StepCounts:
    """Number of spikes of all neurons and images at each step, [T], whole numbers in float64; see SpikeCounts."""

    events: Tensor
    magnitude: Tensor


def count_spikes_by_step(train: SpikeTrain) -> StepCounts:
    """Count the spikes of all neurons at each step."""
    events = torch.stack([torch.count_nonzero(step) for step in train.values]).double()
    others = [d for d in range(train.values.dim() - 1) if d != 1]
    by_channel = [step.abs().sum(others, dtype=torch.float64) for step in train.values]
    magnitude = _in_spikes(torch.stack(by_channel), train.amplitude, axis=1).sum(1)
    return StepCounts(events, magnitude)


def _in_spikes(values: Tensor, amplitude: Tensor, axis: int) -> Tensor:
    """Values in activation units as numbers of spikes, 0 for silent channels; ``axis`` is the axis of channels."""
    amplitude = amplitude.to(values.device, values.dtype)
    if amplitude.dim():
        amplitude = amplitude.reshape((-1,) + (1,) * (values.dim() - 1 - axis))
    silent = amplitude.isinf() | (amplitude == 0)
    return torch.where(silent, 0.0, values / torch.where(silent, 1.0, amplitude)).round()


def along_channels(parameter: Tensor, dims: int) -> Tensor:
    """View a [C] parameter so that it broadcasts along axis 1 of a tensor with ``dims`` axes; others are unchanged."""
    return parameter.reshape((-1,) + (1,) * (dims - 2)) if parameter.dim() == 1 else parameter


def step_by_step(signal: Signal, steps: int) -> Tensor:
    """The values of ``steps`` steps, [T, B, ...]; a time series must have ``steps`` steps."""
    if isinstance(signal, Constant):
        return signal.values.expand(steps, *signal.values.shape)
    assert signal.steps == steps, "a time series that was not aligned"
    return signal.values


def lift(function: Callable[..., Tensor], *signals: Signal) -> Signal:
    """Apply a batch-first function to every step of its inputs, or once if all of them are constants.

    If time series have different numbers of steps, the function is applied to their time-means. This happens only
    before waiting neurons and in the readout; before streaming neurons, alignment nodes make the numbers equal. The
    running means of :class:`Averaged` series are kept.

    Example:
        >>> lift(torch.neg, Constant(torch.ones(2, 3))).values.shape
        torch.Size([2, 3])
        >>> lift(torch.add, Constant(torch.ones(2, 3)), TimeSeries(torch.ones(4, 2, 3))).values.shape
        torch.Size([4, 2, 3])
    """
    series = [s for s in signals if isinstance(s, TimeSeries)]
    if len({s.steps for s in series}) > 1:
        signals = tuple(Constant(s.mean()) for s in signals)
        series = []
    if not series:
        return Constant(function(*(s.values for s in signals)))
    steps, batch = series[0].values.shape[:2]

    def applied(values: Callable[[Signal], Tensor]) -> Tensor:
        flat = [values(s).flatten(0, 1) for s in signals]
        return function(*flat).unflatten(0, (steps, batch))

    result = applied(lambda s: step_by_step(s, steps))
    if all(isinstance(s, Averaged) for s in series):  # the function is affine, so it commutes with the mean
        return Averaged(result, applied(lambda s: s.means if isinstance(s, Averaged) else step_by_step(s, steps)))
    return TimeSeries(result)


def prefix_means(signal: Signal, timesteps: tuple[int, ...]) -> Tensor:
    """Time-means over the first t steps for each of R numbers t, [R, B, ...].

    Steps are summed in order, so that the mean at t does not depend on the steps after t.
    """
    if isinstance(signal, Constant):
        return step_by_step(signal, len(timesteps))
    wanted = {t: i for i, t in enumerate(timesteps)}
    assert max(timesteps) <= signal.steps, "t is beyond the last step"
    means = signal.values.new_empty(len(timesteps), *signal.values.shape[1:])
    total = torch.zeros_like(signal.values[0])
    for t, value in enumerate(signal.values[: max(timesteps)], start=1):
        total += value
        if t in wanted:
            torch.div(total, t, out=means[wanted[t]])
    return means
