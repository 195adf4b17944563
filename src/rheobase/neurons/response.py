"""The alphabet of a neuron, and its staircase under a constant current."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rheobase.signals.signal import along_channels


@dataclass(frozen=True)
class Alphabet:
    """The numbers of spikes that a neuron may emit in one step.

    Attributes:
        values: whole numbers in rising order, including 0.

    Example:
        >>> Alphabet.upto(3).values, Alphabet.signed(1).values
        ((0, 1, 2, 3), (-1, 0, 1))
        >>> f"{Alphabet.signed(4)}: {Alphabet.signed(4).bits:.2f} bits a spike"
        '{-4..4}: 3.17 bits a spike'
    """

    in_json: ClassVar[tuple[str, ...]] = ("bits",)

    values: tuple[int, ...]

    @classmethod
    def upto(cls, most: int) -> Alphabet:
        """0, 1, ..., most."""
        return cls(tuple(range(most + 1)))

    @classmethod
    def signed(cls, most: int) -> Alphabet:
        """-most, ..., most."""
        return cls(tuple(range(-most, most + 1)))

    @classmethod
    def union(cls, alphabets: Iterable[Alphabet]) -> Alphabet:
        """Every number that is in one of the alphabets."""
        return cls(tuple(sorted({value for alphabet in alphabets for value in alphabet.values})))

    @property
    def least(self) -> int:
        """The smallest number of spikes in a step; negative for signed neurons."""
        return self.values[0]

    @property
    def most(self) -> int:
        """The largest number of spikes in a step."""
        return self.values[-1]

    @property
    def magnitude(self) -> int:
        """The largest number of spikes in a step, of either sign."""
        return max(map(abs, self.values))

    @property
    def bits(self) -> float:
        """log2 of its size: the bits that distinguish what a neuron may emit in a step."""
        return math.log2(len(self.values))

    @property
    def label(self) -> str:
        """The alphabet and its bits, for the text of results."""
        return f"{self} ({self.bits:.3g} {'bit' if self.bits == 1 else 'bits'} a spike)"

    @property
    def binary(self) -> bool:
        """True if a step has one spike or none."""
        return self.values == (0, 1)

    @property
    def kind(self) -> str:
        """``"binary"``, ``"signed"`` (-1, 0, 1), ``"graded"`` (larger numbers) or ``"signed graded"``."""
        signed, graded = self.least < 0, self.magnitude > 1
        return " ".join(["signed"] * signed + ["graded"] * graded) or "binary"

    def __str__(self) -> str:
        if len(self.values) > 3 and self.values == tuple(range(self.least, self.most + 1)):
            return f"{{{self.least}..{self.most}}}"
        if len(self.values) > 3 and self.values == tuple(-k for k in reversed(self.values)):
            return f"{{0, {', '.join(f'±{k}' for k in self.values if k > 0)}}}"
        return "{" + ", ".join(map(str, self.values)) + "}"


BINARY = Alphabet((0, 1))


@dataclass(frozen=True)
class Response:
    r"""The staircase of a neuron under a constant current z over T steps.

    .. math:: n = \mathrm{clip}(\lfloor g z + c \rfloor, n_{min}, n_{max}), \qquad \bar o = u \, n

    with the net number of spikes n and the time-mean output :math:`\bar o`. If the neuron fires only *above* its
    threshold (``strict``), the edge of a step belongs to the lower level: :math:`\lceil g z + c \rceil - 1`.

    Integrate-and-fire with soft reset has g = T/θ, c = V0/θ, n from 0 to T and u = θ/T (Bu et al. 2022, Theorem 2).

    Attributes:
        gain: g > 0, spikes for a current of 1, [] or [C]; 0 for a silent channel.
        offset: c; a number, [], [C] or [C, ...].
        lower: n_min, the smallest net number of spikes in T steps.
        upper: n_max, the largest net number of spikes in T steps.
        unit: u, the contribution of one spike to the time-mean, amplitude / T, [] or [C]; 0 for a silent channel.
        strict: True if it fires only above threshold.
        constant: the part of c that comes from a constant current (a bias); the rest is the rounding.

    Example:
        >>> response = Response(torch.tensor(4.0), 0.5, 0, 4, torch.tensor(0.25))
        >>> response.mean(torch.tensor([[-1.0, 0.1, 0.2, 0.6, 3.0]]))
        tensor([[0.0000, 0.0000, 0.2500, 0.5000, 1.0000]])
    """

    gain: Tensor
    offset: Tensor | float
    lower: int
    upper: int
    unit: Tensor
    strict: bool = False
    constant: Tensor | float = 0.0

    def accumulated(self, z: Tensor, *, overwrite: bool = False) -> Tensor:
        """Accumulated input g z + c for a mean current z, [B, C, ...]; if ``strict``, less 1, for use with ⌈·⌉."""
        gain = along_channels(self.gain, z.dim())
        accumulated = z.mul_(gain) if overwrite else z * gain
        offset = self.offset - 1 if self.strict else self.offset
        if isinstance(offset, Tensor):
            accumulated += along_channels(offset, z.dim())
        elif offset:
            accumulated += offset
        return accumulated

    def count(self, z: Tensor, *, overwrite: bool = False) -> Tensor:
        """n, whole numbers as floats, [B, C, ...]. With ``overwrite`` n is written over ``z``."""
        accumulated = self.accumulated(z, overwrite=overwrite)
        return (accumulated.ceil_() if self.strict else accumulated.floor_()).clamp_(self.lower, self.upper)

    def mean(self, z: Tensor, *, overwrite: bool = False) -> Tensor:
        """The time-mean output for a mean current z, [B, C, ...]."""
        return self.count(z, overwrite=overwrite).mul_(along_channels(self.unit, z.dim()))

    def mean_with_gradient(self, z: Tensor) -> Tensor:
        """:meth:`mean` with the gradient of clip(g z + constant, n_min, n_max) (straight-through estimator)."""
        constant = along_channels(torch.as_tensor(self.constant, dtype=z.dtype, device=z.device), z.dim())
        linear = (z * along_channels(self.gain, z.dim()) + constant).clamp(self.lower, self.upper)
        count = linear + (self.count(z.detach()) - linear).detach()
        return count * along_channels(self.unit, z.dim())


def finite_amplitude(amplitude: Tensor) -> Tensor:
    """The amplitude as a finite factor: 0 for a silent channel, whose threshold is infinite."""
    return torch.where(amplitude.isinf(), 0.0, amplitude)
