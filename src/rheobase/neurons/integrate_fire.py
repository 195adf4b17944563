"""Integrate-and-fire with soft reset: the classical neuron of conversion."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.neurons.fused import fire_train
from rheobase.neurons.membrane import MembraneNeuron
from rheobase.neurons.neuron import State


class IntegrateFire(MembraneNeuron):
    r"""Integrate-and-fire neuron with soft reset (reset by subtraction).

    .. math::
        u[t] = v[t-1] + I[t] - b[t], \qquad s[t] = [u[t] \ge \theta], \qquad v[t] = u[t] - \theta s[t]

    Rueckauer et al. 2017, Eqs. 3-5; the initial potential v[-1] = V0 is Bu et al. 2022 (OPI), the per-step bias b is
    Wu et al. 2024 (FTBC, Eq. 4, with the sign mended), a constant one Li et al. 2021 (section 4.2).

    Args:
        threshold: θ > 0, scalar [] or per channel [C]; infinity for a channel that must stay silent.
        initial_potential: V0/θ; [], [C], or one per neuron [C, ...].
        bias: b, subtracted before firing; [C], the same at every step, or [T, C], or None.
        timesteps: T of this site, where it has one of its own.

    Example:
        >>> neuron = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5))
        >>> currents = torch.full((4, 1, 1), 0.6)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([1., 0., 1., 0.])
    """

    kind = "integrate_fire"

    def count(self, potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
        """One spike at θ and above."""
        return torch.ge(potential, threshold, out=torch.empty_like(potential))

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        """The same as repeated :meth:`step`, in one pass over memory where a compiler is present."""
        bias = None
        if self.bias is not None:
            steps = len(currents)
            bias = self.bias[t : t + steps] if self.bias.dim() == 2 else self.bias.expand(steps, -1)
        values, potential = fire_train(currents, self.threshold, state[0], bias, overwrite)
        return values, (potential,)
