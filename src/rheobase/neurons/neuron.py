"""The contract of every neuron."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from rheobase.core.errors import RecipeError, RheobaseError
from rheobase.neurons.response import BINARY, Alphabet, Response, finite_amplitude
from rheobase.signals.signal import Constant, Signal, SpikeTrain, TimeSeries, along_channels, step_by_step

State = tuple[Tensor, ...]
"""State of a neuron between two steps, such as its potentials [B, C, ...]."""

SILENT = float("inf")
"""Threshold of a silent channel: no potential reaches it."""


class Neuron(nn.Module, ABC):
    """A layer of neurons at one site: parameters in buffers, state passed in and returned.

    Parameters have shape [] or, one per channel, [C]. Currents have shape [B, C, ...] (one step) or [T, B, C, ...] (all
    steps). At every step a neuron emits a number of spikes from its ``alphabet``. The output of the site is
    ``amplitude * spikes``, in activation units.

    The rest of the library uses a neuron only through this class:

    - ``alphabet``: the numbers of spikes in one step; ``capacity(T)``: the range of their sum over T steps.
    - ``settable``: the parameters that calibration passes may change with :meth:`set`.
    - ``response(T)``: the staircase under a constant current, or None.
    - ``streams``: True if step t of the output needs steps 1 to t of the input only; False if it needs the whole input
      (:class:`rheobase.neurons.WindowNeuron`).
    - ``closed_form``: True if :meth:`rate` computes the time-mean output from the time-mean of the current alone.
    - ``has_membrane``: True if :meth:`potential` and :meth:`spikes_at` give the membrane potential and the spikes of
      each step (:class:`rheobase.neurons.MembraneNeuron`).
    - ``v0``: V0/θ, for neurons that have an initial potential.
    - ``differentiable``: True if :meth:`run_with_gradient` trains the threshold and the initial potential.

    The constructor takes every buffer, and every value of :meth:`config`, by its name. Test a subclass with
    ``rb.testing.check_neuron``.
    """

    kind: ClassVar[str]
    """Name of the class in saved networks."""
    streams: ClassVar[bool] = True
    closed_form: ClassVar[bool] = False
    has_membrane: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    takes_back: bool = False
    """True if it takes spikes back as soon as its potential is negative: its net number of spikes then depends on the
    accumulated input, not on the order of the input, unless a step would need more spikes than the alphabet has."""
    settable: ClassVar[tuple[str, ...]] = ()
    trained_threshold: ClassVar[bool] = False
    """True if the threshold was trained with the activation; no pass then chooses another from data."""
    trained_timesteps: ClassVar[bool] = True
    """True if ``timesteps`` is the number of levels the network was trained with; False if a new calibration changes
    it."""
    alphabet: Alphabet = BINARY
    """The numbers of spikes that it may emit in one step."""
    timesteps: int | None = None
    """T of this site; None: T of the network."""

    # -- output --------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def amplitude(self) -> Tensor:
        """The value of one spike for the layers that follow, [] or [C], before division by T."""

    @property
    def activation_units(self) -> tuple[Tensor, Tensor]:
        """The values of one spike and of one unit of current, [] or [C], in units of the analog network's activation.

        Other than ``amplitude`` and 1 only for neurons on whole numbers. The spike of a silent channel has the value 0.
        """
        spike = finite_amplitude(self.amplitude)
        return spike, torch.ones((), dtype=spike.dtype, device=spike.device)

    def capacity(self, steps: int) -> tuple[int, int]:
        """The smallest and the largest net number of spikes in ``steps`` steps."""
        return steps * self.alphabet.least, steps * self.alphabet.most

    def response(self, steps: int) -> Response | None:
        """The staircase under a constant current over ``steps`` steps; None if its output is not a staircase."""
        return None

    @property
    def v0(self) -> float | Tensor:
        """The initial membrane potential V0/θ; a number, [], [C] or [C, ...]."""
        raise NotImplementedError(f"{type(self).__name__} has no initial potential")

    # -- parameters ----------------------------------------------------------------------------------------------------

    def set(self, **parameters: Tensor | None) -> None:
        """Set parameters, with the checks of the constructor.

        Raises:
            RecipeError: if a parameter is not settable, or the constructor refuses its value.
        """
        unknown = [name for name in parameters if name not in self.settable]
        if unknown:
            raise RecipeError(
                f"has no settable parameter {', '.join(unknown)}",
                where=f"{self.kind} neuron",
                remedy=f"set one of its settable parameters: {', '.join(self.settable) or 'none'}",
            )
        self.rebuilt(**parameters)  # for its checks
        for name, value in parameters.items():
            setattr(self, name, value)

    def rebuilt(self, **changes: Any) -> Self:
        """A new neuron with the same parameters except ``changes``. Buffers are not copied."""
        try:
            return type(self)(**{**self.config(), **dict(self._buffers), **changes})
        except RheobaseError:
            raise
        except TypeError as error:
            raise RecipeError(
                f"cannot be built from its buffers and config(): {error}",
                where=type(self).__name__,
                remedy="give the constructor a parameter for every buffer, and every key of config(), of the same name",
            ) from None

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor other than buffers, as JSON values."""
        return {}

    @property
    def fitted(self) -> list[str]:
        """Parameters that were calibrated for the present threshold and T; a new threshold makes them invalid."""
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
        """``amplitude * spikes``, exactly 0 for silent channels."""
        return spikes * along_channels(finite_amplitude(self.amplitude), spikes.dim())

    def spike_train(self, signal: Signal, steps: int) -> SpikeTrain:
        """The spike train of ``steps`` steps from the initial state, for the signal that arrives at the site."""
        currents = step_by_step(signal, steps)
        return SpikeTrain(self.run(currents, self.init(currents.shape[1:], currents[0]))[0], self.amplitude)

    def under_constant_current(self, signal: Signal, steps: int) -> SpikeTrain:
        """The spike train for a constant current, the time-mean of the signal."""
        mean = even_mean(signal.values) if isinstance(signal, TimeSeries) else signal.values
        return self.spike_train(Constant(mean), steps)

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        """The time-mean output over ``steps`` steps for a mean current [B, C, ...]; only with ``closed_form``.

        With ``overwrite`` the result may be written over the current.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

    # -- membrane potential, only with has_membrane --------------------------------------------------------------------

    def potential(self, current: Tensor, state: State, t: int, *, bias: bool = True) -> Tensor:
        """The membrane potential after integrating step ``t`` and before firing, [B, C, ...], in activation units.

        Args:
            current: of step t.
            state: before step t.
            t: from 0.
            bias: subtract the neuron's bias.
        """
        raise NotImplementedError(f"{type(self).__name__} has no membrane potential")

    @property
    def fires_at_threshold(self) -> bool:
        """True if :meth:`spikes_at` is 1 where the potential is at least θ and 0 elsewhere, whatever the state."""
        return False

    def spikes_at(self, potential: Tensor, state: State) -> Tensor:
        """The number of spikes at a membrane potential, [B, C, ...], given the state before the step."""
        raise NotImplementedError(f"{type(self).__name__} has no membrane potential")

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor | None:
        """The potential after the last step, in units of one spike: V0 and accumulated input, less emitted spikes.

        Args:
            current: time-mean of the current, [B, C, ...].
            spikes: net number of spikes in all steps, [B, C, ...].
            steps: T.

        Returns:
            [B, C, ...], 0 for a silent channel; None if the neuron has no such potential.
        """
        return None

    def run_with_gradient(self, signal: Signal, steps: int, parameters: Mapping[str, Tensor], width: float) -> Tensor:
        """``amplitude * spikes`` of all steps, with gradients; only with ``differentiable``.

        Args:
            signal: the signal that arrives at the site.
            steps: T.
            parameters: settable parameters by name, used instead of the neuron's.
            width: width of the surrogate gradient, in units of θ.
        """
        raise NotImplementedError(f"{type(self).__name__} is not differentiable")

    # -- time ----------------------------------------------------------------------------------------------------------

    def check_timesteps(self, timesteps: int, nominal: int) -> str | None:
        """Why it cannot run when the network, converted for T = ``nominal``, runs for ``timesteps``; None if it can.

        ``self.timesteps`` is scaled by ``timesteps / nominal``, and the result must be a whole number.
        """
        if self.timesteps is None or self.timesteps * timesteps % nominal == 0:
            return None
        return f"its T would be {self.timesteps * timesteps / nominal:g}, which is not a whole number"

    def steps(self, timesteps: int, nominal: int) -> int:
        """T of this site when the network, converted for T = ``nominal``, runs for ``timesteps``."""
        return timesteps if self.timesteps is None else self.timesteps * timesteps // nominal

    def internal_steps(self, before: int | None, steps: int) -> int:
        """Number of steps between the last input and the first output, for an input of ``before`` steps.

        ``before`` is None for a constant input.
        """
        return 0

    def updates(self, before: int | None, steps: int) -> int:
        """Additions to potentials and counters for one image, in addition to those of the synapses: one a step."""
        return steps

    def comparisons(self, before: int | None, steps: int) -> int:
        """Comparisons with a threshold for one image: one a step."""
        return steps


def even_mean(values: Tensor) -> Tensor:
    """Mean over the first axis, summed in float64, so that the mean of equal values is exactly that value."""
    return values.double().mean(0).to(values.dtype)


def check_threshold(threshold: Tensor) -> None:
    """Refuse a threshold that is not positive; infinity is allowed, for a silent channel.

    Raises:
        RecipeError: if it is 0, negative or NaN.
    """
    if not bool((threshold > 0).all()):
        raise RecipeError("must be positive and not NaN", where="threshold", remedy="calibrate on real images")
