"""Neurons that emit several spikes in a step, or take spikes back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rheobase.core.checks import check_whole
from rheobase.core.errors import RecipeError
from rheobase.neurons.membrane import MembraneNeuron
from rheobase.neurons.response import Alphabet

MAX_MAGNITUDE = 1024
"""Largest number of spikes in a step: an alphabet is a tuple of numbers, and more bits a spike are an analog value."""


class Graded(MembraneNeuron):
    r"""Graded spikes that can be taken back: up to m spikes of either sign in a step.

    .. math::
        \begin{aligned}
        u[t] &= v[t-1] + I[t] - b[t], \\
        k[t] &= \max(\mathrm{clip}(\lfloor u[t]/\theta \rfloor, -m, m), -n[t-1]), \\
        v[t] &= u[t] - \theta k[t]
        \end{aligned}

    with n the net number of spikes so far, so that the output of a rectified unit is never negative in sum. As soon as
    the potential is negative, the neuron takes a spike back. So the potential stays in [0, θ) unless k is clipped, and
    the net number of spikes is the floor of the accumulated input at every step, whatever the order of the input: what
    earlier layers have corrected, later ones correct too. m = 1 is the ternary neuron.

    Args:
        threshold: θ > 0, [] or [C]; infinity for a silent channel.
        initial_potential: V0/θ; ½ rounds to nearest.
        bias: b, subtracted before firing; [C] or [T, C], or None.
        timesteps: T of this site; None: T of the network.
        magnitude: m, the largest number of spikes in a step.
        nonnegative: never take back more than was emitted; False for a signed activation.

    Raises:
        RecipeError: if the threshold is not positive, or T or m is less than 1.

    Example:
        >>> import torch
        >>> neuron = Graded(torch.tensor(1.0), torch.tensor(0.5), magnitude=2)
        >>> currents = torch.tensor([2.0, -1.0, 0.2]).reshape(3, 1, 1)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([ 2., -1.,  0.])
    """

    kind = "graded"

    def __init__(
        self,
        threshold: Tensor,
        initial_potential: Tensor,
        bias: Tensor | None = None,
        timesteps: int | None = None,
        magnitude: int = 1,
        nonnegative: bool = True,
    ) -> None:
        super().__init__(threshold, initial_potential, bias, timesteps)
        self.magnitude = check_whole(magnitude, "magnitude", most=MAX_MAGNITUDE)
        self.remembers = nonnegative
        self.alphabet = self.letters(self.magnitude)

    @staticmethod
    def letters(magnitude: int) -> Alphabet:
        """The alphabet for a largest magnitude."""
        return Alphabet.signed(magnitude)

    def config(self) -> dict[str, Any]:
        """``timesteps``, ``magnitude`` and ``nonnegative``."""
        return {**super().config(), "magnitude": self.magnitude, "nonnegative": self.remembers}


class Signed(Graded):
    r"""Signed neuron with memory: as :class:`Graded`, but a spike is taken back only at a potential of −θ and below.

    .. math:: k[t] = \max(\mathrm{clip}(\mathrm{trunc}(u[t]/\theta), -m, m), -n[t-1])

    Wang et al. 2022 (SNM), with m = 1 and :math:`n[t-1] > 0` for a negative spike.

    Args:
        threshold: θ > 0, [] or [C]; infinity for a silent channel.
        initial_potential: V0/θ.
        bias: b, subtracted before firing; [C] or [T, C], or None.
        timesteps: T of this site; None: T of the network.
        magnitude: m, the largest number of spikes in a step.
        nonnegative: never take back more than was emitted; False for a signed activation.

    Example:
        >>> import torch
        >>> neuron = Signed(torch.tensor(1.0), torch.tensor(0.0))
        >>> currents = torch.tensor([1.2, -0.1, -1.2]).reshape(3, 1, 1)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([ 1.,  0., -1.])
    """

    kind = "signed"
    fires = "truncate"


class MultiThreshold(Graded):
    r"""Spikes of signed powers of two: k ∈ {0, ±1, ±2, ±4, ..., ±m}, the nearest one to the potential.

    The thresholds are :math:`\pm\theta_{max}/2^j`; here θ is the smallest of them, the amplitude of k = 1. k is the
    number nearest to :math:`u/\theta - 1/2`; if the net output may not be negative, the nearest one that keeps it so.
    The response to a constant current is not a uniform staircase.

    Args:
        threshold: θ > 0, the smallest threshold, [] or [C]; infinity for a silent channel.
        initial_potential: V0/θ; ½ makes the nearest amplitude fire.
        bias: b, subtracted before firing; [C] or [T, C], or None.
        timesteps: T of this site; None: T of the network.
        magnitude: m, the largest number of spikes in a step, a power of two.
        nonnegative: never take back more than was emitted; False for a signed activation.

    Raises:
        RecipeError: if m is not a power of two.

    Example:
        >>> import torch
        >>> neuron = MultiThreshold(torch.tensor(1.0), torch.tensor(0.5), magnitude=4)
        >>> neuron.alphabet.values
        (-4, -2, -1, 0, 1, 2, 4)
        >>> currents = torch.tensor([3.2, -0.9]).reshape(2, 1, 1)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([ 4., -2.])
    """

    kind = "multi_threshold"

    @staticmethod
    def letters(magnitude: int) -> Alphabet:
        """0 and the signed powers of two up to the magnitude."""
        if magnitude & (magnitude - 1):
            raise RecipeError(f"is {magnitude}", where="magnitude", remedy="use a power of two: 1, 2, 4, 8, ...")
        powers = [1 << j for j in range(magnitude.bit_length())]
        return Alphabet((*(-k for k in reversed(powers)), 0, *powers))


class Burst(MembraneNeuron):
    r"""Burst neuron: up to m spikes in a step, none taken back.

    .. math:: k[t] = \mathrm{clip}(\lfloor u[t]/\theta \rfloor, 0, m)

    Li & Zeng 2022. A group neuron (Lv et al. 2024), τ members with thresholds iθ/τ that fire together, is a burst
    neuron with m = τ and the threshold θ/τ.

    Args:
        threshold: θ > 0, [] or [C]; infinity for a silent channel.
        initial_potential: V0/θ.
        bias: b, subtracted before firing; [C] or [T, C], or None.
        timesteps: T of this site; None: T of the network.
        magnitude: m, the largest number of spikes in a step.

    Example:
        >>> import torch
        >>> neuron = Burst(torch.tensor(1.0), torch.tensor(0.5), magnitude=2)
        >>> currents = torch.tensor([3.0, -1.0, 0.2]).reshape(3, 1, 1)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([2., 0., 0.])
    """

    kind = "burst"

    def __init__(
        self,
        threshold: Tensor,
        initial_potential: Tensor,
        bias: Tensor | None = None,
        timesteps: int | None = None,
        magnitude: int = 2,
    ) -> None:
        super().__init__(threshold, initial_potential, bias, timesteps)
        self.magnitude = check_whole(magnitude, "magnitude", most=MAX_MAGNITUDE)
        self.alphabet = Alphabet.upto(self.magnitude)

    def config(self) -> dict[str, Any]:
        """``timesteps`` and ``magnitude``."""
        return {**super().config(), "magnitude": self.magnitude}
