"""The contracts of an activation at a site, of a quantised activation that trains, and of a constraint on several."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from rheobase.core.errors import ModelError

Rounding = Literal["round", "floor", "ceil"]
"""How a quantised activation rounds to a level: to the nearest, down or up."""

INITIAL_POTENTIAL: dict[Rounding, float] = {"floor": 0.0, "round": 0.5, "ceil": 1.0}
"""V0/θ with which an integrate-and-fire neuron under a constant current gives the activation (QVM, Theorem 2)."""


@dataclass(frozen=True)
class Bounds:
    """The range of an activation, and its quantisation.

    Attributes:
        lower: its smallest value; -infinity if it has no lower bound.
        upper: the value at which it saturates (6 for ReLU6); None if it does not, or saturates at a trained threshold.
        levels: L of a quantised activation, which saturates at its trained θ; or None.
        rounding: how it rounds to a level.
    """

    lower: float = 0.0
    upper: float | None = None
    levels: int | None = None
    rounding: Rounding = "round"


class Activation(ABC):
    """The function that a site computes in the analog network, with attributes and tensors of its node as arguments.

    To add an activation, write a subclass and pass it to :func:`rheobase.register`. Tracing finds the activation by
    ``traced_from``, and loading by ``kind``.
    """

    kind: ClassVar[str]
    """Name in graphs and saved networks: attribute ``activation`` of a site."""
    traced_from: ClassVar[tuple[str, ...]] = ()
    """Names of the calls that become such a site, such as ``"mylib::log2_relu"``; see :meth:`trace`."""

    @abstractmethod
    def apply(self, *x: Any, **arguments: Any) -> Tensor:
        """The activation of a pre-activation ``x`` [B, C, ...].

        Called as ``apply(x, overwrite=False, **attributes, **tensors)``, with the attributes and tensors of the node by
        their names; with ``overwrite``, the result may be written over ``x``.
        """

    @abstractmethod
    def bounds(self, *nothing: Any, **attributes: Any) -> Bounds:
        """Its range and quantisation, from the attributes of the node."""

    def trace(self, call: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """The input of a :class:`rheobase.graph.trace.call.Call`, and the attributes and tensors of its site."""
        return call.input("x", "self", "z", "input"), {}, {}


ACTIVATIONS: dict[str, Activation] = {}
"""Every activation by its kind; :func:`rheobase.register` adds to it."""


def built_in(activation: type[Activation]) -> type[Activation]:
    """Class decorator: add a built-in activation to ``ACTIVATIONS``."""
    ACTIVATIONS[activation.kind] = activation()
    return activation


@built_in
class ClippedReLU(Activation):
    r"""ReLU, or ReLU clipped at ``upper``: :math:`a = \mathrm{clip}(z, 0, u)`."""

    kind = "relu"

    def apply(self, x: Tensor, *, overwrite: bool = False, upper: float | None = None, **arguments: Any) -> Tensor:
        """``x``: [B, C, ...]."""
        if upper is None:
            return x.relu_() if overwrite else x.relu()
        return x.clamp_(0.0, upper) if overwrite else x.clamp(0.0, upper)

    def bounds(self, *, upper: float | None = None, **attributes: Any) -> Bounds:
        """From 0 to ``upper``."""
        return Bounds(upper=upper)


@built_in
class Identity(Activation):
    """No activation: a linear output, :math:`a = z`, at a site of :func:`rheobase.convert` with ``sites="all"``."""

    kind = "identity"

    def apply(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """``x``: [B, C, ...]."""
        return x

    def bounds(self) -> Bounds:
        """None below or above."""
        return Bounds(lower=-math.inf)


class QuantisedActivation(nn.Module, ABC):
    r"""A trainable module with quantised levels, which conversion turns into a site.

    Unless a subclass overrides :meth:`site`, the site is the staircase :math:`a = \frac{\theta}{L} \,
    \mathrm{clip}(Q(zL / \theta), 0, L)` with the θ, L and Q of the module at conversion. θ may be a parameter or be
    computed from parameters; L may be fixed or learned. To use such modules in a recipe, register a recipe part that
    places them at the sites (:class:`rheobase.methods.ActivationPart`). Test a subclass with
    ``rb.testing.check_activation``.

    Attributes:
        levels: L, a whole number from 1.
        rounding: Q, how it rounds to a level.
        rates: learning rates of its parameters by name, as factors of the weights' rate; default 1. Its parameters have
            no weight decay.
    """

    learns_levels: ClassVar[bool] = False
    """True if L changes in training."""
    levels: int
    rounding: Rounding
    rates: Mapping[str, float] = MappingProxyType({})

    @property
    @abstractmethod
    def saturation(self) -> Tensor:
        """θ, the value at which it saturates, [] or [C]."""

    def site(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Attributes and tensors of the graph's site node, from the present parameters."""
        attributes = {"activation": "staircase", "levels": self.levels, "rounding": self.rounding}
        return attributes, {"threshold": self.saturation.detach()}

    def identity(self) -> str:
        """A text with the settings that are not in tensors, to detect a checkpoint of another configuration."""
        return self.extra_repr()


class Constraint(Protocol):
    """A condition on the activations of all sites together that training enforces."""

    def project(self, activations: Mapping[str, Any], done: float) -> None:
        """Project the activations, site -> module, onto the allowed values.

        Called after every training step; ``done`` is the share of the training that is over, 0 to 1.
        """

    def notes(self, activations: Mapping[str, Any]) -> list[str]:
        """Notes for the user about the activations at the end of training."""


def check_levels(levels: int) -> int:
    """Return ``levels`` if it is a whole number from 1; else raise a ModelError."""
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ModelError(f"is {levels!r}", where="levels", remedy="use a whole number from 1")
    return levels
