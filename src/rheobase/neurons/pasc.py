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

    1. the L' steps of the input are integrated, each 1/L' of its current; up to one spike a step is counted;
    2. without input, for max(L', L) − 1 steps, excitatory spikes are counted and inhibitory ones discounted, until the
       potential lies between 0 and θ*;
    3. the count, clipped to 0..L, is emitted over L steps, spikes first.

    The paper subtracts θ* from the potential at every spike; in float32 that disagrees with the activation on up to a
    third of the inputs (docs/paper-errors.md). Here the potential is kept as what has come in and a whole number of
    spikes, without a tolerance.

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: L, the levels of the activation.
        rounding: of the activation.

    Example:
        >>> from rheobase.signals import TimeSeries
        >>> neuron = Pasc(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(TimeSeries(torch.tensor([3.0, -1.0, 0.0]).reshape(3, 1, 1)), 4).flatten()
        tensor([1., 1., 1., 0.])
    """

    kind = "pasc"

    def internal_steps(self, before: int | None, steps: int) -> int:
        """Stage 2; none for the image, whose count Algorithm 2 takes at once."""
        return 0 if before is None else max(before, steps) - 1

    def updates(self, before: int | None, steps: int) -> int:
        """Potential in all three stages, counter in the first two: 5L − 2 for L' = L (section 4.2.1)."""
        counted = self.comparisons(before, steps) - steps
        return 2 * counted + steps

    def comparisons(self, before: int | None, steps: int) -> int:
        """One a step of the three stages."""
        before = before or steps
        return before + max(before, steps) - 1 + steps

    def steps(self, timesteps: int, nominal: int) -> int:
        """L, always."""
        return self.timesteps

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """It counts in the steps it was trained with."""
        return None if timesteps == nominal else f"its T is the number of levels it was trained with, {self.timesteps}"

    def count(self, signal: Signal) -> Tensor:
        """Spikes counted after stages 1 and 2, not yet clipped; whole numbers, [B, C, ...]."""
        before = signal.steps if isinstance(signal, TimeSeries) else self.timesteps  # held: Algorithm 2
        scale = along_channels(self.timesteps / self.threshold, signal.mean().dim())
        offset = self.v0 - 1 if self.strict else self.v0
        count = torch.zeros_like(signal.mean())
        drive = count
        for come in _running_means(signal, before):
            drive = come * scale + offset
            count += self.reaches(drive, count).to(count.dtype)
        for _ in range(max(before, self.timesteps) - 1):
            excitatory, inhibitory = self.reaches(drive, count), self.exceeds(drive, count)
            count += excitatory.to(count.dtype) - inhibitory.to(count.dtype)
        return count

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """All three stages."""
        return self.emit_count(self.count(signal).clamp_(0, self.timesteps), steps)


def _running_means(signal: Signal, steps: int) -> Iterator[Tensor]:
    """What has come in after each step, as a part of the time-mean: the last is the mean."""
    if isinstance(signal, Constant):
        for t in range(1, steps):
            yield signal.values * (t / steps)
        yield signal.values
        return
    total = torch.zeros_like(signal.values[0])
    for current in signal.values:
        total = total + current
        yield total / steps
