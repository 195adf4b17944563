"""Integrate-and-fire with soft reset: the classical neuron of conversion."""

from __future__ import annotations

from rheobase.neurons.membrane import MembraneNeuron


class IntegrateFire(MembraneNeuron):
    r"""Integrate-and-fire neuron with soft reset (reset by subtraction).

    .. math::
        u[t] = v[t-1] + I[t] - b[t], \qquad s[t] = [u[t] \ge \theta], \qquad v[t] = u[t] - \theta s[t]

    Rueckauer et al. 2017, Eqs. 3-5. The initial potential v[-1] = V0 is from Bu et al. 2022 (OPI), the per-step bias b
    from Wu et al. 2024 (FTBC, Eq. 4, with its sign corrected), a constant bias from Li et al. 2021 (section 4.2).

    Args:
        threshold: θ > 0, [] or [C]; infinity for a silent channel.
        initial_potential: V0/θ; [], [C], or one per neuron, [C, ...].
        bias: b, subtracted before firing; [C], the same at every step, or [T, C], or None.
        timesteps: T of this site; None: T of the network.

    Example:
        >>> import torch
        >>> neuron = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5))
        >>> currents = torch.full((4, 1, 1), 0.6)
        >>> neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten()
        tensor([1., 0., 1., 0.])
    """

    kind = "integrate_fire"
