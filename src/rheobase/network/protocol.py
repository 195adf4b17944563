"""The contract of a protocol: the phases in which every site runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from rheobase.core.errors import RecipeError
from rheobase.core.values import Value
from rheobase.neurons import Neuron, State
from rheobase.signals.signal import Constant, Signal, SpikeTrain, TimeSeries, step_by_step


@dataclass(frozen=True)
class Phase:
    """One phase of a site, for :meth:`Protocol.between`.

    Attributes:
        number: from 0.
        start: the state of the neurons at its start.
        end: the state at its end.
        spikes: the spikes, [t, B, C, ...].
    """

    number: int
    start: State
    end: State
    spikes: SpikeTrain


class Protocol(Value, ABC):
    """Phases in which every site runs over its input, with a rule between them; the last phase is the site's output.

    Example: "run τ steps, silence the neurons that should not have fired, run T steps". A protocol works with any
    streaming neuron. It defines the length of each phase, and the state from which the next one starts. A network with
    a protocol does not stream: each site waits for its whole input.

    A subclass declares its name as ``kind: Literal["my_protocol"] = "my_protocol"``, and the options of the method as
    its fields. Pass it to :func:`rheobase.register`.
    """

    kind: str

    @abstractmethod
    def phases(self, timesteps: int) -> tuple[int, ...]:
        """The number of steps of each phase, for a site that emits ``timesteps`` steps; the last is ``timesteps``."""

    @abstractmethod
    def between(self, neuron: Neuron, start: State, done: Phase) -> State:
        """The state from which the next phase starts.

        Args:
            neuron: the neurons of the site.
            start: the initial state, before the first phase.
            done: the phase that has just ended.
        """

    def check(self, neuron: Neuron, where: str) -> None:
        """Refuse neurons that cannot run in these phases: those that wait for their whole input.

        Raises:
            RecipeError: naming ``where``, the site.
        """
        if not neuron.streams:
            raise RecipeError(
                f"has {type(neuron).__name__} neurons, which wait for their whole input and have no phases",
                where=where,
                remedy="use streaming neurons, such as integrate_fire",
            )

    def emit(self, neuron: Neuron, signal: Signal, timesteps: int) -> SpikeTrain:
        """Run all phases over the whole input of a site and return its spike train."""
        like = signal.values if isinstance(signal, Constant) else signal.values[0]
        start = state = neuron.init(like.shape, like)
        *before, last = self.phases(timesteps)
        for number, steps in enumerate(before):
            values, end = neuron.run(_input(signal, steps), state)
            done = Phase(number, state, end, SpikeTrain(values, neuron.amplitude))
            state = self.between(neuron, start, done)
        return SpikeTrain(neuron.run(_input(signal, last), state)[0], neuron.amplitude)

    def internal_steps(self, timesteps: int) -> int:
        """Number of steps in all phases but the last, in which a site emits nothing to the next layer."""
        return sum(self.phases(timesteps)[:-1])


def _input(signal: Signal, steps: int) -> torch.Tensor:
    """The first ``steps`` steps of a site's input, [steps, B, C, ...]; a shorter input is repeated."""
    if isinstance(signal, TimeSeries):
        return signal.values[torch.arange(steps) % signal.steps]
    return step_by_step(signal, steps)


PROTOCOLS: dict[str, type[Protocol]] = {}
"""Every protocol by its kind; :func:`rheobase.register` adds to it."""
