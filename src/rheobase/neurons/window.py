"""Neurons that wait for all the steps of their input before they emit the first of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rheobase.activations import INITIAL_POTENTIAL, Rounding, clipped_count
from rheobase.errors import RecipeError
from rheobase.neurons.neuron import Neuron, State
from rheobase.signal import Held, Signal, Train, along_channels


class WindowNeuron(Neuron):
    r"""A neuron whose spike count depends on its input only through the time-mean z of the current.

    .. math:: n = \mathrm{clip}(\lfloor z L / \theta + V_0 \rfloor, 0, L)

    with L spikes at most, V0 in units of what one spike is worth in the input, θ/L, and θ·n/L what it emits on average.
    So a whole network of such neurons can be computed on means alone (``execution="counts"``). It waits for the last
    step of its input: a barrier.

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: L = T of this site: how many steps it emits.
        rounding: of the activation it stands for: V0 is 0 (floor), ½ (round), 1 (ceil, and fires only above threshold).
    """

    streams = False
    timesteps: int
    threshold: Tensor
    rounding: Rounding

    def __init__(self, threshold: Tensor, timesteps: int, rounding: Rounding = "round") -> None:
        super().__init__()
        self.check_threshold(threshold)
        if timesteps < 1:
            raise RecipeError(f"is {timesteps}", where="timesteps", remedy="use a whole number from 1")
        self.register_buffer("threshold", threshold)
        self.timesteps, self.rounding = timesteps, rounding

    @staticmethod
    def check_threshold(threshold: Tensor) -> None:
        """Refuse a threshold that no training leaves behind."""
        if not bool((threshold > 0).all()) or not bool(torch.isfinite(threshold).all()):
            raise RecipeError(
                "must be positive and finite", where="threshold", remedy="load a checkpoint from before it diverged"
            )

    @property
    def amplitude(self) -> Tensor:
        """θ."""
        return self.threshold

    @property
    def potential(self) -> float | Tensor:
        """V0, in units of θ/L; a number, or [] or [C]."""
        return INITIAL_POTENTIAL[self.rounding]

    @property
    def strict(self) -> bool:
        """Whether it fires only above the threshold, not at it."""
        return self.rounding == "ceil"

    @property
    def has_closed_form(self) -> bool:
        """Whether the count is that of the formula above."""
        return True

    def line(self, steps: int) -> tuple[Tensor, Tensor]:
        """(m, c), [] or [C]: n = clip(⌊m z + c⌋, 0, T), or ⌈m z + c⌉ where the neuron fires only above θ."""
        offset = self.potential - 1 if self.strict else self.potential
        return steps / self.threshold, torch.as_tensor(offset, dtype=self.threshold.dtype, device=self.threshold.device)

    def worth(self) -> Tensor:
        """What a spike emits, [] or [C]."""
        return self.amplitude

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """θ·n/T for a mean current z, [B, C, ...]: what the neuron emits on average over ``steps`` steps."""
        count = clipped_count(current, self.threshold, steps, self.potential, self.strict, overwrite=overwrite)
        return count.mul_(along_channels(self.threshold / steps, current.dim()))

    @abstractmethod
    def fire(self, signal: Signal, steps: int) -> Tensor:
        """The simulation, step by step: what arrives -> ``amplitude * spikes``, [steps, B, C, ...]."""

    def under_even_current(self, signal: Signal, steps: int) -> Tensor:
        """What it emits for the mean, held."""
        return self.fire(Held(signal.mean()), steps)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """T z/θ + V0/θ − N."""
        start = along_channels(torch.as_tensor(self.potential), current.dim())
        return steps * current.double() / along_channels(self.threshold, current.dim()) + start - spikes

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """A window has no state before it."""
        return ()

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Not possible: it needs the whole input first."""
        raise RecipeError(
            "waits for its whole input and cannot be run step by step",
            where=f"{self.kind} neuron",
            remedy="run the network with snn(images)",
        )

    def config(self) -> dict[str, Any]:
        """``timesteps`` and ``rounding``."""
        return {"timesteps": self.timesteps, "rounding": self.rounding}

    def reaches(self, drive: Tensor, count: Tensor) -> Tensor:
        """Whether ``drive`` (the potential, nothing subtracted, in units of a spike) is worth one more spike."""
        return drive > count if self.strict else drive >= count + 1

    def exceeds(self, drive: Tensor, count: Tensor) -> Tensor:
        """Whether ``count`` spikes are more than ``drive`` is worth."""
        return drive <= count - 1 if self.strict else drive < count

    def emit_count(self, count: Tensor, steps: int) -> Tensor:
        """A count [B, C, ...] as a train, spikes first: [steps, B, C, ...] in activation units."""
        values = torch.stack([count > t for t in range(steps)]).to(count.dtype)
        return values.mul_(along_channels(self.threshold, count.dim()))


class ConstantCurrent(WindowNeuron):
    r"""Integrate-and-fire under the time-mean of its current, the same at every step (QVM, section 4.1; QAC, Eq. 14).

    .. math:: u[t] = v[t-1] + z, \qquad s[t] = [u[t] \ge \theta], \qquad v[t] = u[t] - \theta s[t]

    At T = L and with the V0 of the activation's rounding, it emits exactly the quantised activation (QVM, Theorems 1
    and 2): no unevenness error, since z is even by construction. The potential is kept as what has come in and a whole
    number of spikes that have gone out, so that nothing is lost by rounding however long it runs.

    From 0 ≤ V0 ≤ θ the count is that of the closed form. From any other V0, where calibration may move it, it is not (a
    neuron that starts below 0 may be late for good, one that starts above θ fires although z is negative): then
    :meth:`rate` steps.

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: T of this site.
        rounding: of the activation it stands for.
        initial_potential: V0/θ, a number, [] or [C]; default the one that belongs to the rounding.
        strict: fire only above θ, not at it; default where V0 = θ, so that silence stays silent.

    Example:
        >>> neuron = ConstantCurrent(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(Held(torch.full((1, 1), 0.4)), 4).flatten()
        tensor([0., 1., 0., 1.])
    """

    kind = "constant_current"
    initial_potential: Tensor | None

    def __init__(
        self,
        threshold: Tensor,
        timesteps: int,
        rounding: Rounding = "round",
        initial_potential: float | Tensor | None = None,
        strict: bool | None = None,
    ) -> None:
        super().__init__(threshold, timesteps, rounding)
        if initial_potential is not None:
            initial_potential = torch.as_tensor(initial_potential, dtype=threshold.dtype, device=threshold.device)
            if not bool(torch.isfinite(initial_potential).all()):
                raise RecipeError("must be finite", where="initial potential", remedy="calibrate with a smaller step")
        self.register_buffer("initial_potential", initial_potential)
        self._strict = bool(torch.all(torch.as_tensor(self.potential) == 1)) if strict is None else strict

    @property
    def potential(self) -> float | Tensor:
        """V0/θ."""
        return super().potential if self.initial_potential is None else self.initial_potential

    @property
    def strict(self) -> bool:
        """Whether it fires only above the threshold, not at it."""
        return self._strict

    @property
    def has_closed_form(self) -> bool:
        """Whether 0 ≤ V0 ≤ θ everywhere."""
        v0 = self.initial_potential
        return v0 is None or bool(((v0 >= 0) & (v0 <= 1)).all())

    def config(self) -> dict[str, Any]:
        """All but θ and V0."""
        return {**super().config(), "strict": self._strict}

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """θ·n/T for a mean current z, [B, C, ...], in closed form where V0 allows it, else counted step by step."""
        if self.has_closed_form:
            return super().rate(current, steps, overwrite=overwrite)
        count = torch.zeros_like(current)
        for spikes in self._spikes(current, steps):
            count += spikes
        return count.mul_(along_channels(self.threshold / steps, current.dim()))

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """One spike a step at most, whenever what has come in is worth one more."""
        z = signal.mean()
        theta = along_channels(self.threshold, z.dim())
        values = z.new_empty(steps, *z.shape)
        for spikes, value in zip(self._spikes(z, steps), values, strict=True):
            torch.mul(spikes, theta, out=value)
        return values

    def _spikes(self, z: Tensor, steps: int) -> Iterator[Tensor]:
        """Whether it fires at each step, 0 or 1, [B, C, ...]."""
        whole = z * along_channels(steps / self.threshold, z.dim())  # all that will have come in, in units of θ
        offset = self.potential - 1 if self.strict else self.potential
        if isinstance(offset, Tensor):
            offset = along_channels(offset, z.dim())
        count = torch.zeros_like(z)
        for t in range(steps):
            come = whole if t == steps - 1 else whole * ((t + 1) / steps)
            spikes = self.reaches(come + offset, count).to(z.dtype)
            count += spikes
            yield spikes


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
        >>> neuron = Pasc(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(Train(torch.tensor([3.0, -1.0, 0.0]).reshape(3, 1, 1)), 4).flatten()
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
        before = signal.steps if isinstance(signal, Train) else self.timesteps  # held: Algorithm 2
        scale = along_channels(self.timesteps / self.threshold, signal.mean().dim())
        offset = self.potential - 1 if self.strict else self.potential
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
    if isinstance(signal, Held):
        for t in range(1, steps):
            yield signal.values * (t / steps)
        yield signal.values
        return
    total = torch.zeros_like(signal.values[0])
    for current in signal.values:
        total = total + current
        yield total / steps
