"""Neurons on whole numbers in integer operators of ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from rheobase.exchange.onnx.forms import whole
from rheobase.exchange.onnx.writer import Value, Whole, Writer
from rheobase.neurons.integer import IntegerCount, IntegerFire
from rheobase.signals.signal import along_channels


@dataclass(frozen=True)
class Memory:
    """The state of a site's neurons: potential, and the net number of spikes that they have emitted.

    Both are None before the first step.
    """

    potential: Value | None = None
    sent: Value | None = None


def count(writer: Writer, neuron: IntegerCount, total: Value, dims: int) -> Value:
    """The net number of spikes for the summed current [B, C, ...] with ``dims`` axes."""
    potential = writer.plus(total, _along(neuron.initial, dims))
    return writer.floor_divide(potential, _along(neuron.threshold, dims), neuron.lower, neuron.upper)


def fire(
    writer: Writer, neuron: IntegerFire, current: Value, memory: Memory, t: int, dims: int
) -> tuple[Value, Memory]:
    """Integrate, limit, fire, subtract: the spikes of step t, and the state after it."""
    theta = _along(neuron.threshold, dims)
    start = np.zeros((), np.int64)
    if memory.potential is None:
        start = _along(neuron.initial, dims)
    else:
        current = writer.add(memory.potential, current)
    if neuron.bias is not None:
        start = start - _along(neuron.bias[t] if neuron.bias.dim() == 2 else neuron.bias, dims)
    potential = _limited(writer, neuron, writer.plus(current, start))
    spikes = _spikes(writer, neuron, potential, theta)
    if neuron.remembers and neuron.alphabet.least < 0:
        spikes = _without_debt(writer, neuron, spikes, memory.sent)
    left = writer.add(potential, writer.times(spikes, -theta))
    sent = spikes if memory.sent is None else writer.add(memory.sent, spikes)
    return spikes, Memory(left, sent)


def _along(parameter: Tensor, dims: int) -> Whole:
    """A parameter of the channels as whole numbers that broadcast along axis 1."""
    return whole(along_channels(parameter, dims))


def _limited(writer: Writer, neuron: IntegerFire, potential: Value) -> Value:
    """The potential within its width."""
    if neuron.bits is None:
        return potential
    lowest, highest = -(2 ** (neuron.bits - 1)), 2 ** (neuron.bits - 1) - 1
    if lowest <= potential.low and potential.high <= highest:
        return potential
    if neuron.overflow == "wrap":
        turned = writer.remainder(writer.plus(potential, np.array(-lowest)), 2**neuron.bits)
        return writer.plus(turned, np.array(lowest))
    return writer.clip(potential, lowest, highest)


def _spikes(writer: Writer, neuron: IntegerFire, potential: Value, theta: Whole) -> Value:
    """The number of spikes by the firing rule alone (:class:`rheobase.neurons.firing.FiringRule`)."""
    values = neuron.alphabet.values
    least, most = values[0], values[-1]
    if values == (0, 1):
        return writer.reaches(potential, theta)
    if neuron.fires == "truncate":  # the signs apart, because no operator rounds negative quotients alike everywhere
        above = writer.divide(writer.clip(potential, 0, max(0, potential.high)), theta)
        below = writer.divide(writer.clip(writer.negative(potential), 0, max(0, -potential.low)), theta)
        return writer.clip(writer.add(above, writer.negative(below)), least, most)
    if neuron.rule.consecutive:
        return writer.floor_divide(potential, theta, least, most)
    # u/θ >= (low + high + 1)/2, in whole numbers
    steps = [
        writer.times(writer.reaches(potential, -((-(low + high + 1) * theta) // 2)), np.array(high - low))
        for low, high in pairwise(values)
    ]
    spikes = writer.plus(writer.add(*steps), np.array(least))
    return Value(spikes.name, least, most)


def _without_debt(writer: Writer, neuron: IntegerFire, spikes: Value, sent: Value | None) -> Value:
    """At least minus the net number of spikes that were emitted before, or the next larger number of the alphabet."""
    values = neuron.alphabet.values
    if sent is None:
        return writer.clip(spikes, 0, values[-1])
    owed = writer.negative(sent)
    if neuron.rule.consecutive:
        return writer.larger(spikes, owed)
    steps = [
        writer.times(writer.reaches(owed, np.array(low + 1)), np.array(high - low))
        for low, high in pairwise(values)
        if low < 0
    ]
    return writer.larger(spikes, writer.plus(writer.add(*steps), np.array(values[0])))
