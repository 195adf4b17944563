"""The spike-counting neuron of PASCAL."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rheobase.neurons.window import WindowNeuron
from rheobase.signals.signal import Constant, Signal, TimeSeries, along_channels


class Pasc(WindowNeuron):
    r"""The spike-counting neuron of PASCAL (Algorithms 1 and 2), with integer counters.

    In rate units and with :math:`\theta^* = \theta / L`:

    1. The L' steps of the input are integrated, each with 1/L' of its current. At most one spike per step is counted.
    2. For max(L', L) − 1 steps without input, excitatory spikes increase the count and inhibitory ones decrease it,
       until the potential is between 0 and θ*.
    3. The count, clipped to 0..L, is emitted over L steps, spikes first.

    Differs from the paper: it subtracts θ* from the potential at every spike, which in float32 disagrees with the
    activation on up to a third of the inputs (docs/paper-errors.md). Here the potential is stored as the accumulated
    input and the number of spikes, and needs no tolerance.

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: L, the number of levels of the activation.
        rounding: rounding of the activation.

    Example:
        >>> from rheobase.signals import TimeSeries
        >>> neuron = Pasc(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(TimeSeries(torch.tensor([3.0, -1.0, 0.0]).reshape(3, 1, 1)), 4).flatten()
        tensor([1., 1., 1., 0.])
    """

    kind = "pasc"

    def internal_steps(self, before: int | None, steps: int) -> int:
        """Steps of stage 2; 0 for a constant input, for which Algorithm 2 computes the count at once."""
        return 0 if before is None else max(before, steps) - 1

    def updates(self, before: int | None, steps: int) -> int:
        """Potential in all three stages, counter in the first two: 5L − 2 for L' = L (section 4.2.1)."""
        counted = self.comparisons(before, steps) - steps
        return 2 * counted + steps

    def comparisons(self, before: int | None, steps: int) -> int:
        """One per step of the three stages."""
        before = before or steps
        return before + max(before, steps) - 1 + steps

    def steps(self, timesteps: int, nominal: int) -> int:
        """L, for every T of the network."""
        return self.timesteps

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """It runs only for the T that the network was converted for."""
        return None if timesteps == nominal else f"its T is the number of levels it was trained with, {self.timesteps}"

    def count(self, signal: Signal) -> Tensor:
        """Spikes counted after stages 1 and 2, not yet clipped; whole numbers, [B, C, ...]."""
        before = signal.steps if isinstance(signal, TimeSeries) else self.timesteps  # constant: Algorithm 2
        scale = along_channels(self.timesteps / self.threshold, signal.mean().dim())
        offset = self.v0 - 1 if self.strict else self.v0
        count = torch.zeros_like(signal.mean())
        accumulated = count
        for running_mean in _running_means(signal, before):
            accumulated = running_mean * scale + offset
            count += self.reaches(accumulated, count).to(count.dtype)
        for _ in range(max(before, self.timesteps) - 1):
            excitatory, inhibitory = self.reaches(accumulated, count), self.exceeds(accumulated, count)
            count += excitatory.to(count.dtype) - inhibitory.to(count.dtype)
        return count

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """Run all three stages."""
        return self.emit_count(self.count(signal).clamp_(0, self.timesteps), steps)


def _running_means(signal: Signal, steps: int) -> Iterator[Tensor]:
    """The accumulated input after each step, divided by the number of all steps; the last one is the time-mean."""
    if isinstance(signal, Constant):
        for t in range(1, steps):
            yield signal.values * (t / steps)
        yield signal.values
        return
    total = torch.zeros_like(signal.values[0])
    for current in signal.values:
        total = total + current
        yield total / steps
