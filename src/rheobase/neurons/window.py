"""Neurons that wait for all the steps of their input before they emit the first of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rheobase.activations import INITIAL_POTENTIAL, Rounding, clipped_count
from rheobase.errors import RecipeError
from rheobase.neurons.neuron import Neuron, State, along_channels
from rheobase.signal import Held, Signal, Train


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
    threshold: Tensor
    rounding: Rounding

    def __init__(self, threshold: Tensor, timesteps: int, rounding: Rounding = "round") -> None:
        super().__init__()
        if not bool((threshold > 0).all()) or not bool(torch.isfinite(threshold).all()):
            raise RecipeError(
                "must be positive and finite", where="threshold", remedy="load a checkpoint from before it diverged"
            )
        if timesteps < 1:
            raise RecipeError(f"is {timesteps}", where="timesteps", remedy="use a whole number from 1")
        self.register_buffer("threshold", threshold)
        self.timesteps, self.rounding = timesteps, rounding

    @property
    def amplitude(self) -> Tensor:
        """θ."""
        return self.threshold

    @property
    def potential(self) -> float:
        """V0, in units of θ/L."""
        return INITIAL_POTENTIAL[self.rounding]

    @property
    def strict(self) -> bool:
        """Whether it fires only above the threshold, not at it."""
        return self.rounding == "ceil"

    def steps(self, timesteps: int, nominal: int) -> int:
        """T of this site when the network, converted for T = ``nominal``, runs for ``timesteps``."""
        return self.timesteps * timesteps // nominal

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Where sites have different T, all are stretched alike, to whole numbers."""
        if self.timesteps * timesteps % nominal == 0:
            return None
        return f"its share of {timesteps} steps would be {self.timesteps * timesteps / nominal:g}"

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
        return steps * current.double() / along_channels(self.threshold, current.dim()) + self.potential - spikes

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

    Args:
        threshold: θ > 0, [] or [C].
        timesteps: T of this site.
        rounding: of the activation it stands for.
        initial_potential: V0/θ, 0 to 1; default the one that belongs to the rounding.

    Example:
        >>> neuron = ConstantCurrent(torch.tensor(1.0), timesteps=4)
        >>> neuron.fire(Held(torch.full((1, 1), 0.4)), 4).flatten()
        tensor([0., 1., 0., 1.])
    """

    kind = "constant_current"

    def __init__(
        self,
        threshold: Tensor,
        timesteps: int,
        rounding: Rounding = "round",
        initial_potential: float | None = None,
    ) -> None:
        super().__init__(threshold, timesteps, rounding)
        self.initial_potential = initial_potential

    @property
    def potential(self) -> float:
        """V0/θ."""
        return super().potential if self.initial_potential is None else self.initial_potential

    @property
    def strict(self) -> bool:
        """Whether it fires only above the threshold: where V0 = θ, so that silence stays silent."""
        return self.potential == 1.0

    def config(self) -> dict[str, Any]:
        """All but θ."""
        return {**super().config(), "initial_potential": self.initial_potential}

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """One spike a step at most, whenever what has come in is worth one more."""
        z = signal.mean()
        whole = z * along_channels(steps / self.threshold, z.dim())  # all that will have come in, in units of θ
        offset = self.potential - 1 if self.strict else self.potential
        theta = along_channels(self.threshold, z.dim())
        count = torch.zeros_like(z)
        values = z.new_empty(steps, *z.shape)
        for t in range(steps):
            come = whole if t == steps - 1 else whole * ((t + 1) / steps)
            spikes = self.reaches(come + offset, count).to(z.dtype)
            count += spikes
            torch.mul(spikes, theta, out=values[t])
        return values


class Pasc(WindowNeuron):
    r"""The spike-counting neuron of PASCAL (Algorithms 1 and 2), with integer counters.

    In rate units and with :math:`\theta^* = \theta / L`:

    1. the L' steps of the input are integrated, each 1/L' of its current; up to one spike a step is counted;
    2. without input, for max(L', L) − 1 steps, excitatory spikes are counted and inhibitory ones discounted, until the
       potential lies between 0 and θ*;
    3. the count, clipped to 0..L, is emitted over L steps, spikes first.

    The paper subtracts θ* from the potential at every spike; in float32 that disagrees with the activation on up to a
    third of the inputs. Here the potential is kept as what has come in and a whole number of spikes, without a
    tolerance (methods: "count with integers").

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
