"""What an activation is to the site that it stands at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from rheobase.core.errors import ModelError

Rounding = Literal["round", "floor", "ceil"]


INITIAL_POTENTIAL: dict[Rounding, float] = {"floor": 0.0, "round": 0.5, "ceil": 1.0}
"""V0/θ of the integrate-and-fire neuron whose count is the activation's under a constant current (QVM, Theorem 2)."""


@dataclass(frozen=True)
class Bounds:
    """Between which values an activation lies, and how it is quantised.

    Attributes:
        lower: its smallest value; -infinity for one without a lower bound.
        upper: where it saturates (6 for ReLU6); None if it does not, or at a trained threshold.
        levels: L of a quantised activation, which saturates at its trained θ; or None.
        rounding: how it rounds to a level.
    """

    lower: float = 0.0
    upper: float | None = None
    levels: int | None = None
    rounding: Rounding = "round"


class Activation(ABC):
    """What a site computes in the analog network: a function of its current, with attributes and tensors of its node.

    Adding an activation is adding one class; :func:`rheobase.register` makes one from outside known. Networks that are
    traced find it by the calls that it names, saved ones by its ``kind``.
    """

    kind: ClassVar[str]
    """Its name in graphs and saved networks: attribute ``activation`` of a site."""
    traced_from: ClassVar[tuple[str, ...]] = ()
    """Calls that become such a site, by their names, such as ``"mylib::log2_relu"``; see :meth:`trace`."""

    @abstractmethod
    def apply(self, *x: Any, **arguments: Any) -> Tensor:
        """The activation of a current [B, C, ...], as ``apply(x, overwrite=False, **attributes, **tensors)``.

        Args:
            x: the current.
            arguments: ``overwrite``, whether the result may be written over the current; the attributes and tensors of
                the node by their names.
        """

    @abstractmethod
    def bounds(self, *nothing: Any, **attributes: Any) -> Bounds:
        """Between which values it lies, by the attributes of the node."""

    def trace(self, call: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """The current of a call in ``traced_from``, and the attributes and tensors of the site.

        Args:
            call: a :class:`rheobase.graph.trace.call.Call`.
        """
        return call.input("x", "self", "z", "input"), {}, {}


ACTIVATIONS: dict[str, Activation] = {}
"""Every activation by its kind; :func:`rheobase.register` adds to them."""


def built_in(activation: type[Activation]) -> type[Activation]:
    """Make an activation known."""
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


class QuantisedActivation(nn.Module, ABC):
    r"""An activation with levels, as a module that trains; the spiking network's site is made from it.

    What converts is, unless :meth:`site` says otherwise, the staircase :math:`a = \frac{\theta}{L} \,
    \mathrm{clip}(Q(zL / \theta), 0, L)` with the θ, L and Q that the module has at conversion. How it gets there is its
    own affair: θ may be a parameter, or follow from others; L may be fixed or learned. :func:`rheobase.register` makes
    a part of a recipe known that puts such modules at the sites (:class:`rheobase.methods.ActivationPart`);
    ``rb.testing.check_activation`` puts one through its promises.

    Attributes:
        levels: L, a whole number from 1.
        rounding: Q, how it rounds to a level.
        rates: learning rates of its parameters by name, in units of the weights'; 1 where none is given. None of its
            parameters decays.
    """

    learns_levels: ClassVar[bool] = False
    """Whether L changes in training."""
    levels: int
    rounding: Rounding
    rates: Mapping[str, float] = MappingProxyType({})

    @property
    @abstractmethod
    def saturation(self) -> Tensor:
        """θ, where it saturates, [] or [C]."""

    def site(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Attributes and tensors of the graph's site node, as it is now."""
        attributes = {"activation": "staircase", "levels": self.levels, "rounding": self.rounding}
        return attributes, {"threshold": self.saturation.detach()}

    def identity(self) -> str:
        """What distinguishes it from others of the same shapes, and does not train."""
        return self.extra_repr()


class Constraint(Protocol):
    """What training holds the activations of all sites to, together."""

    def hold(self, activations: Mapping[str, Any], done: float) -> None:
        """Move the activations, by the names of their sites, to where they are allowed.

        Called after every training step; ``done`` is the share of the training that is over, 0 to 1.
        """

    def notes(self, activations: Mapping[str, Any]) -> list[str]:
        """What the user should know about where they ended."""


def check_levels(levels: int) -> int:
    """The levels, if they are a whole number from 1.

    Raises:
        ModelError: if not.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ModelError(f"is {levels!r}", where="levels", remedy="use a whole number from 1")
    return levels
