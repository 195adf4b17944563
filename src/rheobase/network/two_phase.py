"""Protocols of published two-phase methods: neurons silenced (SRP) or potentials shifted (COS) by a rehearsal."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from rheobase.core.errors import RecipeError
from rheobase.network.protocol import PROTOCOLS, Phase, Protocol
from rheobase.neurons import Neuron, State
from rheobase.neurons.response import finite_amplitude
from rheobase.signals.signal import along_channels


class _OnPotentials(Protocol):
    """Base of protocols that act on membrane potentials."""

    def check(self, neuron: Neuron, where: str) -> None:
        """Refuse neurons without a membrane potential, too."""
        super().check(neuron, where)
        if not neuron.has_membrane:
            raise RecipeError(
                f"has {type(neuron).__name__} neurons, which have no membrane potential",
                where=where,
                remedy="use integrate_fire neurons",
            )


class Silence(_OnPotentials):
    r"""Run τ steps; neurons whose residual potential is not positive stay silent in the T steps that count.

    A neuron that ends with :math:`v(\tau) \le \epsilon\theta` has fired although its mean input does not justify it
    (Hao et al. 2023, AAAI, "Reducing ANN-SNN conversion error through residual membrane potential", SRP). The T steps
    start from the initial potential again. The margin ε is that of the released code.

    Args:
        steps: τ.
        margin: ε.
    """

    kind: Literal["silence"] = "silence"
    steps: int = Field(default=4, ge=1, le=2**16)
    margin: float = Field(default=1e-3, ge=0)

    def check(self, neuron: Neuron, where: str) -> None:
        """Refuse neurons that emit negative spikes without memory, too: one without a potential would emit them."""
        super().check(neuron, where)
        if neuron.capacity(1)[0] < 0:
            raise RecipeError(
                f"has {type(neuron).__name__} neurons with a negative net output, which cannot be silenced",
                where=where,
                remedy='use sites="activations", or another protocol',
            )

    def phases(self, timesteps: int) -> tuple[int, ...]:
        """τ and T."""
        return self.steps, timesteps

    def between(self, neuron: Neuron, start: State, done: Phase) -> State:
        """The initial state; a potential of −∞ for a neuron that stays silent."""
        potential = done.end[0]
        theta = along_channels(finite_amplitude(neuron.amplitude), potential.dim())
        return (torch.where(potential <= self.margin * theta, -torch.inf, start[0]), *start[1:])


class Shift(_OnPotentials):
    r"""Run T steps ρ times; after each, shift the initial potential by the spikes that were too many or too few.

    With V0 the original initial potential, the residual after n spikes is :math:`R = V_0 + \sum I[t] - n \theta`. The
    number of spikes is right if :math:`0 \le R < \theta`, so the next T steps start from a potential that is higher by
    :math:`\theta \lfloor R / \theta \rfloor`, as far as a neuron can emit that many spikes in T steps (Hao et al. 2023,
    ICLR, "Bridging the gap between ANNs and SNNs by calibrating offset spikes", COS).

    Args:
        rounds: ρ.
    """

    kind: Literal["shift"] = "shift"
    rounds: int = Field(default=4, ge=1, le=1024)

    def phases(self, timesteps: int) -> tuple[int, ...]:
        """T, ρ + 1 times."""
        return (timesteps,) * (self.rounds + 1)

    def between(self, neuron: Neuron, start: State, done: Phase) -> State:
        """The potential from which this phase started, shifted; the rest of the state as at the start."""
        began, (ended, *_) = done.start[0], done.end
        theta = along_channels(finite_amplitude(neuron.amplitude), began.dim())
        least, most = neuron.capacity(done.spikes.steps)
        count = done.spikes.counts.sum(0)
        missing = ((start[0] + (ended - began)) / theta).floor()
        return (began + theta * ((count + missing).clamp(least, most) - count), *start[1:])


PROTOCOLS |= {protocol.model_fields["kind"].default: protocol for protocol in (Silence, Shift)}
