"""What an activation is to the site that it stands at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from rheobase.core.errors import ModelError

Rounding = Literal["round", "floor", "ceil"]


INITIAL_POTENTIAL: dict[Rounding, float] = {"floor": 0.0, "round": 0.5, "ceil": 1.0}
"""V0/θ of the integrate-and-fire neuron whose count is the activation's under a constant current (QVM, Theorem 2)."""


class QuantisedActivation(nn.Module, ABC):
    r"""An activation with levels, as a module that trains; the spiking network's site is made from it.

    What converts is the staircase :math:`a = \frac{\theta}{L} \, \mathrm{clip}(Q(zL / \theta), 0, L)` with the θ, L and
    Q that the module has at conversion. How it gets there is its own affair: θ may be a parameter, or follow from
    others; L may be fixed or learned. :func:`rheobase.register` makes a part of a recipe known that puts such modules
    at the sites (:class:`rheobase.methods.ActivationPart`); ``rb.testing.check_activation`` puts one through its
    promises.

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
        attributes = {"upper": None, "levels": self.levels, "rounding": self.rounding}
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
