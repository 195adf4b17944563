"""Neurons on whole numbers: thresholds, potentials and biases of a chip's widths, spikes of amplitude 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.neurons.firing import Firing
from rheobase.neurons.fused import fire_train
from rheobase.neurons.membrane import SoftResetNeuron
from rheobase.neurons.neuron import Neuron, State
from rheobase.neurons.response import Alphabet, Response
from rheobase.neurons.window import WaitingNeuron
from rheobase.signals.signal import Signal, SpikeTrain, TimeSeries, along_channels

Overflow = Literal["saturate", "wrap"]
"""What a potential does beyond its width: stay at the limit, or continue at the other end."""
FiresWhen = Literal["reached", "exceeded"]
"""When a neuron fires: at v >= θ, or at v > θ. On whole numbers the second is the first with V0 less 1."""


class IntegerNeuron(Neuron):
    """The base of neurons whose numbers are all whole; floating-point tensors hold them exactly.

    Args:
        threshold: θ, whole and positive, [C].
        initial: V0 in the units of θ, whole; [], [C] or [C, ...].
        spike_value: what a spike stands for in the units of the analog network's activation, [] or [C]; 0 for a silent
            channel. Default 1. The spikes do not depend on it.
    """

    threshold: Tensor
    initial: Tensor
    spike_value: Tensor

    def __init__(self, threshold: Tensor, initial: Tensor, spike_value: Tensor | None = None) -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("initial", initial)):
            check_whole_numbers(value, name)
        if not bool((threshold >= 1).all()):
            raise RecipeError("must be at least 1", where="threshold", remedy="use more bits for weights or states")
        self.register_buffer("threshold", threshold)
        self.register_buffer("initial", initial)
        self.register_buffer("spike_value", self.amplitude if spike_value is None else spike_value)

    @property
    def activation_units(self) -> tuple[Tensor, Tensor]:
        """``spike_value``, which is worth θ units of current."""
        return self.spike_value, self.spike_value / self.threshold

    @property
    def amplitude(self) -> Tensor:
        """1."""
        return torch.ones((), dtype=self.threshold.dtype, device=self.threshold.device)

    @property
    def v0(self) -> Tensor:
        """V0/θ."""
        shape = self.threshold.shape + (1,) * (self.initial.dim() - 1)
        return self.initial / self.threshold.reshape(shape)


def check_whole_numbers(values: Tensor, where: str) -> None:
    """Refuse values that are not whole.

    Raises:
        RecipeError: for the first one.
    """
    broken = values[values != values.round()]
    if broken.numel():
        remedy = "make the network with rb.integers, and do not change it afterwards"
        raise RecipeError(f"holds {float(broken[0]):g}, which is not whole", where=where, remedy=remedy)


class IntegerFire(IntegerNeuron, SoftResetNeuron):
    r"""Integrate, fire and reset by subtraction on whole numbers, in a state of a given width.

    .. math::
        u[t] = \mathrm{limit}(v[t-1] + I[t] - b[t]), \qquad k[t] = \mathrm{rule}(u[t]/\theta), \qquad
        v[t] = u[t] - \theta k[t]

    Args:
        threshold: θ, whole and positive, [C].
        initial: V0, whole; [C] or [C, ...].
        alphabet: the numbers of spikes in one step.
        fires: see :class:`rheobase.neurons.firing.FiringRule`.
        remembers: it takes back no more spikes than it has emitted.
        bias: b, whole; [C], the same at every step, or [T, C], or None.
        bits: width of the potential; None: any.
        overflow: what a potential does beyond it.
        spike_value: see :class:`IntegerNeuron`.

    Attributes:
        overflows: number of potentials that were beyond the width since it was set to 0.

    Example:
        >>> neuron = IntegerFire(torch.tensor([10.0]), torch.tensor([5.0]))
        >>> neuron.run(torch.tensor([4.0, 4.0, 4.0]).reshape(3, 1, 1), neuron.init((1, 1), torch.zeros(1)))[0].flatten()
        tensor([0., 1., 0.])
    """

    kind = "integer_fire"

    def __init__(
        self,
        threshold: Tensor,
        initial: Tensor,
        bias: Tensor | None = None,
        alphabet: Sequence[int] = (0, 1),
        fires: Firing = "floor",
        remembers: bool = False,
        bits: int | None = None,
        overflow: Overflow = "saturate",
        spike_value: Tensor | None = None,
    ) -> None:
        super().__init__(threshold, initial, spike_value)
        if bias is not None:
            check_whole_numbers(bias, "bias")
        self.register_buffer("bias", bias)
        self.alphabet, self.fires, self.remembers = Alphabet(tuple(alphabet)), fires, remembers
        self.bits, self.overflow, self.overflows = bits, overflow, 0

    def config(self) -> dict[str, Any]:
        """Everything but the buffers."""
        return {
            "alphabet": list(self.alphabet.values),
            "fires": self.fires,
            "remembers": self.remembers,
            "bits": self.bits,
            "overflow": self.overflow,
        }

    def response(self, steps: int) -> Response | None:
        """⌊(T (z − b) + V0)/θ⌋; None where the neuron has none, as for :class:`rheobase.neurons.MembraneNeuron`."""
        if not self.rule.consecutive or (self.fires == "truncate" and self.capacity(steps)[0] < 0):
            return None
        if self.bias is not None and self.bias.dim() == 2:
            return None
        gain = steps / self.threshold
        constant = 0.0 if self.bias is None else -self.bias * gain
        if isinstance(constant, Tensor) and self.initial.dim() > 1:
            constant = constant.reshape(-1, *(1,) * (self.initial.dim() - 1))
        return Response(gain, self.v0 + constant, *self.capacity(steps), self.amplitude / steps, constant=constant)

    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """V0 for every neuron."""
        potential = along_channels(self.initial, len(shape)).to(like.dtype).expand(shape)
        return (potential, torch.zeros((), dtype=like.dtype, device=like.device).expand(shape))[: 1 + self.remembers]

    def limited(self, potential: Tensor) -> Tensor:
        """The potential within its width."""
        if self.bits is None:
            return potential
        lowest, highest = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        within = potential.clamp(lowest, highest)
        if self.overflow == "wrap":
            within = (potential - lowest).remainder(2**self.bits) + lowest
        self.overflows += int((within != potential).sum())
        return within

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        """The same numbers as repeated :meth:`step`; faster where no potential can leave its width."""
        if not self._within(currents, state):
            return super().run(currents, state, t)
        bias = None
        if self.bias is not None:
            bias = self.bias[t : t + len(currents)] if self.bias.dim() == 2 else self.bias.expand(len(currents), -1)
        values, state = fire_train(currents, self.threshold, state, bias, self.rule, overwrite)
        return values.div_(along_channels(self.threshold, values.dim() - 1)), state  # exact: multiples of θ

    def _within(self, currents: Tensor, state: State) -> bool:
        if self.bits is None or currents.numel() == 0:
            return True
        step = float(currents.abs().max()) + (0.0 if self.bias is None else float(self.bias.abs().max()))
        back = float(self.threshold.max()) * max(0, -self.alphabet.least)
        return float(state[0].abs().max()) + len(currents) * (step + back) < 2 ** (self.bits - 1)

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """v[T]/θ."""
        dims = current.dim()
        accumulated = steps * current.double()
        if self.bias is not None:
            bias = self.bias.double().sum(0) if self.bias.dim() == 2 else steps * self.bias.double()
            accumulated = accumulated - along_channels(bias, dims)
        return (along_channels(self.initial, dims) + accumulated) / along_channels(self.threshold, dims) - spikes


class IntegerCount(IntegerNeuron, WaitingNeuron):
    r"""Collect the whole input, then emit as many spikes as it holds thresholds.

    .. math:: n = \mathrm{clip}\Big(\Big\lfloor \frac{\sum_t I[t] + V_0}{\theta} \Big\rfloor, n_{min}, n_{max}\Big)

    in whole numbers: the count of every neuron with a closed form (PASCAL, QVM, QAC, parallel conversion). The spikes
    are emitted as early as possible.

    Args:
        threshold: θ, whole and positive, [C].
        initial: V0, whole; [C] or [C, ...]. For a neuron that fires above its threshold only, less 1.
        timesteps: T.
        lower, upper: n_min, n_max.
        alphabet: the numbers of spikes in one step.
        spike_value: see :class:`IntegerNeuron`.

    Example:
        >>> neuron = IntegerCount(torch.tensor([10.0]), torch.tensor([5.0]), timesteps=2, lower=0, upper=2)
        >>> neuron.count(torch.tensor([[-3.0, 4.0, 5.0, 99.0]]).T).flatten()
        tensor([0., 0., 1., 2.])
    """

    kind = "integer_count"
    trained_threshold = True

    def __init__(
        self,
        threshold: Tensor,
        initial: Tensor,
        timesteps: int,
        lower: int,
        upper: int,
        alphabet: Sequence[int] = (0, 1),
        spike_value: Tensor | None = None,
    ) -> None:
        super().__init__(threshold, initial, spike_value)
        self.timesteps: int = timesteps
        self.lower, self.upper, self.alphabet = lower, upper, Alphabet(tuple(alphabet))

    def config(self) -> dict[str, Any]:
        """Everything but the buffers."""
        limits = {"timesteps": self.timesteps, "lower": self.lower, "upper": self.upper}
        return {**limits, "alphabet": list(self.alphabet.values)}

    def capacity(self, steps: int) -> tuple[int, int]:
        """n_min and n_max."""
        return self.lower, self.upper

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Refuse another T: V0 and the limits are for one."""
        return None if timesteps == nominal else f"its count is for T = {self.timesteps}"

    def response(self, steps: int) -> Response:
        """The staircase of the class's equation."""
        return Response(steps / self.threshold, self.v0, self.lower, self.upper, self.amplitude / steps)

    def count(self, total: Tensor) -> Tensor:
        """n for the summed current [B, C, ...]."""
        potential = total + along_channels(self.initial, total.dim())
        return (potential / along_channels(self.threshold, total.dim())).floor_().clamp_(self.lower, self.upper)

    def spread(self, count: Tensor, steps: int) -> SpikeTrain:
        """A spike train with the given net number of spikes."""
        spikes, left = [], count
        for _ in range(steps):
            now = left.clamp(self.alphabet.least, self.alphabet.most)
            spikes.append(now)
            left = left - now
        return SpikeTrain(torch.stack(spikes), self.amplitude)

    def spike_train(self, signal: Signal, steps: int) -> SpikeTrain:
        """The spikes for the whole input."""
        total = signal.values.sum(0) if isinstance(signal, TimeSeries) else steps * signal.values
        return self.spread(self.count(total), steps)

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """n/T for a mean current; a network on whole numbers calls :meth:`count` instead, which is exact."""
        return self.count((steps * current).round()) / steps

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """(T z + V0)/θ − n."""
        total = steps * current.double() + along_channels(self.initial, current.dim())
        return total / along_channels(self.threshold, current.dim()) - spikes
