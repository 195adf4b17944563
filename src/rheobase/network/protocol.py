"""In which phases the neurons of a network run: the contract of two-phase methods."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from rheobase.core.values import Value
from rheobase.neurons import Neuron, State
from rheobase.signals.signal import Constant, Signal, SpikeTrain, TimeSeries, step_by_step


class Protocol(Value, ABC):
    """Every site runs in several phases over its input, with a rule between them; the last phase is what it emits.

    A method of two phases, such as "run τ steps, silence the neurons that should not have fired, run T steps", is a
    protocol over neurons that exist already: it says how long each phase is and from which state the next one starts.
    Networks, latency, energy and saved folders do the rest. A site needs its whole input before the first phase is
    over, so a network with a protocol does not stream: each site waits for the last step of what feeds it.

    A subclass has its name as ``kind: Literal["my_protocol"] = "my_protocol"``; :func:`rheobase.register` makes it
    known. Its fields are the options of the method. Neurons need a state: those that stream.
    """

    kind: str

    @abstractmethod
    def phases(self, timesteps: int) -> tuple[int, ...]:
        """The number of steps of each phase, for a site that emits for ``timesteps``; the last is ``timesteps``."""

    @abstractmethod
    def between(self, neuron: Neuron, start: State, end: State, spikes: SpikeTrain, phase: int) -> State:
        """The state from which the next phase starts.

        Args:
            neuron: the neurons of the site.
            start: the state in which they start when an image arrives.
            end: the state at the end of the phase.
            spikes: what they emitted in it, [t, B, C, ...].
            phase: its number, from 0.
        """

    def emit(self, neuron: Neuron, signal: Signal, timesteps: int) -> SpikeTrain:
        """What a site emits for its whole input."""
        like = signal.values if isinstance(signal, Constant) else signal.values[0]
        start = state = neuron.init(like.shape, like)
        *before, last = self.phases(timesteps)
        for phase, steps in enumerate(before):
            values, end = neuron.run(_input(signal, steps), state)
            state = self.between(neuron, start, end, SpikeTrain(values, neuron.amplitude), phase)
        return SpikeTrain(neuron.run(_input(signal, last), state)[0], neuron.amplitude)

    def internal_steps(self, timesteps: int) -> int:
        """Steps that a site works before it emits: all phases but the last."""
        return sum(self.phases(timesteps)[:-1])


def _input(signal: Signal, steps: int) -> torch.Tensor:
    """The first ``steps`` steps of a site's input, [steps, B, C, ...]; a shorter one begins again."""
    if isinstance(signal, TimeSeries):
        return signal.values[torch.arange(steps) % signal.steps]
    return step_by_step(signal, steps)


PROTOCOLS: dict[str, type[Protocol]] = {}
"""Every protocol by its kind; :func:`rheobase.register` adds to them."""
