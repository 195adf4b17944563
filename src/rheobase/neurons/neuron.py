"""The contract of every neuron."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from rheobase.core.errors import RecipeError, RheobaseError
from rheobase.neurons.response import BINARY, Alphabet, Response, finite_amplitude
from rheobase.signals.signal import Constant, Signal, SpikeTrain, TimeSeries, along_channels, step_by_step

State = tuple[Tensor, ...]

SILENT = float("inf")
"""Threshold of a channel that must never fire: no potential reaches it."""


class Neuron(nn.Module, ABC):
    """A layer of neurons at one site: parameters in buffers, state passed in and out.

    Parameters have shape [] or, one for each channel, [C]. Currents have shape [B, C, ...] (one step) or
    [T, B, C, ...] (all steps). A neuron emits a whole number of spikes at every step, out of its ``alphabet``; what
    leaves the site is ``amplitude * spikes``, in activation units.

    What the rest of the library may ask of a neuron is declared here; nothing outside this package asks for its class.

    - ``alphabet``: what it may emit in a step; ``capacity(T)``: what in T steps, net.
    - ``settable``: the parameters that calibration passes may set, by :meth:`set`.
    - ``response(T)``: the staircase that it gives under a constant current, or None if none can be stated.
    - ``streams``: whether it emits step t as soon as step t of its input is there. A neuron that does not, needs the
      whole input first (:class:`rheobase.neurons.WindowNeuron`).
    - ``closed_form``: whether :meth:`rate` gives its time-mean from the time-mean of its current alone.
    - ``has_membrane``: whether it has a membrane potential that can be read, and fired at, step by step
      (:class:`rheobase.neurons.MembraneNeuron`).
    - ``v0``: V0/θ, where it has one.
    - ``differentiable``: whether :meth:`run_with_gradient` trains its threshold and initial potential.

    The constructor takes every buffer, and every value of :meth:`config`, by its name. ``rb.testing.check_neuron`` puts
    an implementation through all of this.
    """

    kind: ClassVar[str]
    """Its name in saved networks."""
    streams: ClassVar[bool] = True
    closed_form: ClassVar[bool] = False
    has_membrane: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    settable: ClassVar[tuple[str, ...]] = ()
    trained_threshold: ClassVar[bool] = False
    """Whether its threshold is that of the activation the network was trained with; no pass chooses another from
    data."""
    trained_timesteps: ClassVar[bool] = True
    """Whether a T of its own is the number of levels the network was trained with; else a new calibration changes
    it."""
    alphabet: Alphabet = BINARY
    """The numbers of spikes that it may emit in one step."""
    timesteps: int | None = None
    """T of this site; None: that of the network."""

    # -- what it declares ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def amplitude(self) -> Tensor:
        """What one spike adds to the next layer's input, [] or [C], before division by T."""

    def capacity(self, steps: int) -> tuple[int, int]:
        """The least and the most that it can have emitted, net, after ``steps`` steps."""
        return steps * self.alphabet.least, steps * self.alphabet.most

    def response(self, steps: int) -> Response | None:
        """What it gives under a constant current over ``steps`` steps; None if no staircase can be stated."""
        return None

    @property
    def v0(self) -> float | Tensor:
        """The initial membrane potential V0/θ; a number, [], [C] or [C, ...]."""
        raise NotImplementedError(f"{type(self).__name__} has no initial potential")

    # -- parameters ----------------------------------------------------------------------------------------------------

    def set(self, **parameters: Tensor | None) -> None:
        """Set parameters, with the checks of the constructor.

        Raises:
            RecipeError: if a parameter is not settable, or a value is impossible.
        """
        unknown = [name for name in parameters if name not in self.settable]
        if unknown:
            raise RecipeError(
                f"has no parameter {', '.join(unknown)} that can be set",
                where=f"{self.kind} neuron",
                remedy=f"it has {', '.join(self.settable) or 'none'}",
            )
        self.rebuilt(**parameters)  # for its checks
        for name, value in parameters.items():
            setattr(self, name, value)

    def rebuilt(self, **changes: Any) -> Self:
        """A new neuron like this one, but for some parameters. Buffers are not copied."""
        try:
            return type(self)(**{**self.config(), **dict(self._buffers), **changes})
        except RheobaseError:
            raise
        except TypeError as error:
            raise RecipeError(
                f"cannot be built from its buffers and config(): {error}",
                where=type(self).__name__,
                remedy="the constructor must take every buffer, and every value of config(), by its name",
            ) from None

    def config(self) -> dict[str, Any]:
        """What, beside the buffers, rebuilds the neuron: JSON values for the constructor."""
        return {}

    @property
    def fitted(self) -> list[str]:
        """Parameters that a calibration fitted to the thresholds and the T that there are; a new threshold voids
        them."""
        return []

    # -- simulation ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def init(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> State:
        """State before the first step, for currents of ``shape`` = [B, C, ...]; dtype and device of ``like``."""

    @abstractmethod
    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """One time-step: current [B, C, ...] and state before step ``t`` (from 0) -> spikes and the state after."""

    def run(self, currents: Tensor, state: State, t: int = 0, *, overwrite: bool = False) -> tuple[Tensor, State]:
        """Many steps: currents [T, B, C, ...] -> ``amplitude * spikes`` of the same shape, and the state after.

        The same numbers as repeated :meth:`step`; a neuron overrides it to be faster. With ``overwrite`` the spikes may
        be written over the currents.
        """
        spikes = []
        for offset, current in enumerate(currents):
            fired, state = self.step(current, state, t + offset)
            spikes.append(self.emit(fired))
        return torch.stack(spikes), state

    def emit(self, spikes: Tensor) -> Tensor:
        """``amplitude * spikes``; a channel that never fires gives exact zeros, whatever its threshold."""
        return spikes * along_channels(finite_amplitude(self.amplitude), spikes.dim())

    def train_of(self, signal: Signal, steps: int) -> SpikeTrain:
        """All ``steps`` steps from the initial state, for what arrives at the site."""
        currents = step_by_step(signal, steps)
        return SpikeTrain(self.run(currents, self.init(currents.shape[1:], currents[0]))[0], self.amplitude)

    def under_even_current(self, signal: Signal, steps: int) -> SpikeTrain:
        """What it would emit for the time-mean of the current, and of what it subtracts, at every step."""
        mean = even_mean(signal.values) if isinstance(signal, TimeSeries) else signal.values
        return self.train_of(Constant(mean), steps)

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """What it emits on average over ``steps`` steps for a mean current, [B, C, ...], where it has a
        ``closed_form``.

        With ``overwrite`` the result may be written over the current.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

    # -- membrane potential, where has_membrane ------------------------------------------------------------------------

    def potential(self, current: Tensor, state: State, t: int, *, bias: bool = True) -> Tensor:
        """The membrane potential after integrating step ``t`` and before firing, [B, C, ...], in activation units.

        Args:
            current: of step t.
            state: before step t.
            t: from 0.
            bias: subtract the neuron's bias.
        """
        raise NotImplementedError(f"{type(self).__name__} has no membrane potential")

    def spikes_at(self, potential: Tensor, state: State) -> Tensor:
        """The spikes that it emits at a membrane potential, [B, C, ...], given the state before the step."""
        raise NotImplementedError(f"{type(self).__name__} has no membrane potential")

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor | None:
        """The potential after the last step, in units of one spike: what has come in less what spikes took out.

        Args:
            current: its mean, [B, C, ...].
            spikes: net number in all steps, likewise.
            steps: T.

        Returns:
            [B, C, ...], 0 for a silent channel; None where a neuron has no such potential.
        """
        return None

    def run_with_gradient(
        self, signal: Signal, steps: int, threshold: Tensor, initial_potential: Tensor, width: float
    ) -> Tensor:
        """``amplitude * spikes`` of all steps, differentiable, where the neuron is ``differentiable``.

        Args:
            signal: what arrives.
            steps: T.
            threshold: θ in the place of the neuron's own, [] or [C].
            initial_potential: V0/θ likewise.
            width: of the surrogate, in units of θ.
        """
        raise NotImplementedError(f"{type(self).__name__} is not differentiable")

    # -- time ----------------------------------------------------------------------------------------------------------

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Why it cannot run when the network, converted for T = ``nominal``, runs for ``timesteps``; None if it can.

        Where sites have a T of their own, all are stretched alike, to whole numbers.
        """
        if self.timesteps is None or self.timesteps * timesteps % nominal == 0:
            return None
        return f"its share of {timesteps} steps would be {self.timesteps * timesteps / nominal:g}"

    def steps(self, timesteps: int, nominal: int) -> int:
        """T of this site when the network, converted for T = ``nominal``, runs for ``timesteps``."""
        return timesteps if self.timesteps is None else self.timesteps * timesteps // nominal

    def internal_steps(self, before: int | None, steps: int) -> int:
        """Steps it works on without input before it emits, for an input of ``before`` steps (None: a constant)."""
        return 0

    def updates(self, before: int | None, steps: int) -> int:
        """Additions to potentials and counters for one input, beside those of the synapses: one a step."""
        return steps

    def comparisons(self, before: int | None, steps: int) -> int:
        """Comparisons with a threshold for one input: one a step."""
        return steps


def even_mean(values: Tensor) -> Tensor:
    """Mean over the first axis, summed in float64, so that the mean of equal values is that value to the bit."""
    return values.double().mean(0).to(values.dtype)


def check_threshold(threshold: Tensor) -> None:
    """Refuse a threshold that is not positive; infinity is a silent channel.

    Raises:
        RecipeError: if it is 0, negative or NaN.
    """
    if not bool((threshold > 0).all()):
        raise RecipeError("must be positive and not NaN", where="threshold", remedy="calibrate it on real images")
