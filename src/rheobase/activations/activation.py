"""What an activation is to the site that it stands at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from rheobase.core.errors import ModelError

Rounding = Literal["round", "floor", "ceil"]


INITIAL_POTENTIAL: dict[Rounding, float] = {"floor": 0.0, "round": 0.5, "ceil": 1.0}
"""V0/θ of the integrate-and-fire neuron whose count is the activation's under a constant current (QVM, Theorem 2)."""


class QuantisedActivation(nn.Module, ABC):
    """What a quantised activation tells about the site it stands at.

    Attributes:
        levels: L, a whole number from 1.
        rounding: how it rounds to a level.
        rates: learning rates of its parameters by name, in units of the weights'; 1 where none is given. None of its
            parameters decays.
    """

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
        """What tells it from others of the same shapes, and does not train."""
        return self.extra_repr()


def check_levels(levels: int) -> int:
    """The levels, if they are a whole number from 1.

    Raises:
        ModelError: if not.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ModelError(f"is {levels!r}", where="levels", remedy="use a whole number from 1")
    return levels
