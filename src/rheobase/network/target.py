"""Target profiles: the widths of the whole numbers of a chip, and what it cannot do."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rheobase.core.errors import RecipeError
from rheobase.core.values import Value
from rheobase.neurons.integer import Overflow

Bits = Annotated[int, Field(ge=2, le=32, strict=True)]


class Target(Value):
    """The widths of a chip, all signed, and what it cannot do.

    Args:
        name: for messages.
        weights, biases: bits of a weight, and of a bias at every step.
        state: bits of a potential; the threshold fits into it too.
        overflow: what a potential does beyond its width.
        scale: one scale of the weights for each output ``channel``, or for the whole ``layer``.
        spikes: the largest number of spikes in a step.
        signed: it has negative spikes.
        waits: a neuron may collect its whole input before it fires.
        step_biases: a bias may differ from step to step.
        shifts: the branches of a sum may have grids that differ by powers of two.
        tables: bits of the index of its lookup tables, for functions of one variable; 0: it has none.

    Example:
        >>> target("speck").weights, generic(weights=4).weights
        (8, 4)
    """

    place: ClassVar[str | None] = "target"

    name: str
    weights: Annotated[int, Field(ge=2, le=16, strict=True)]
    biases: Bits
    state: Bits
    overflow: Overflow = "saturate"
    scale: Literal["channel", "layer"] = "channel"
    spikes: int = Field(default=1, ge=1)
    signed: bool = True
    waits: bool = True
    step_biases: bool = True
    shifts: bool = True
    tables: Annotated[int, Field(ge=0, le=16, strict=True)] = 0

    @property
    def largest_weight(self) -> int:
        """2^(bits - 1) - 1."""
        return int(2 ** (self.weights - 1) - 1)

    @property
    def largest_bias(self) -> int:
        """2^(bits - 1) - 1."""
        return int(2 ** (self.biases - 1) - 1)

    @property
    def largest_threshold(self) -> int:
        """Half of the largest potential, so that a potential may exceed its threshold."""
        return int(2 ** (self.state - 2) - 1)


def generic(
    weights: int = 8,
    state: int = 24,
    biases: int | None = None,
    scale: Literal["channel", "layer"] = "channel",
    tables: int = 10,
) -> Target:
    """A chip with any features, and the given widths.

    Args:
        weights: bits of a weight, 2 to 16.
        state: bits of a potential.
        biases: bits of a bias; default: those of a potential.
        scale, tables: see :class:`Target`.
    """
    return Target(
        name=f"generic {weights}-bit",
        weights=weights,
        biases=biases or state,
        state=state,
        scale=scale,
        spikes=2**15,
        tables=tables,
    )


TARGETS = {
    "generic": generic(),
    "speck": Target(
        name="speck",
        weights=8,
        biases=8,
        state=16,
        scale="layer",
        signed=False,
        waits=False,
        step_biases=False,
        shifts=False,
    ),
    "loihi2": Target(
        name="loihi2", weights=8, biases=24, state=24, overflow="wrap", spikes=2**15, waits=False, step_biases=False
    ),
    "xylo": Target(
        name="xylo",
        weights=8,
        biases=16,
        state=16,
        spikes=31,
        signed=False,
        waits=False,
        step_biases=False,
        shifts=False,
    ),
}
"""Profiles by name: Speck (8-bit weights and biases, 16-bit state, one scale a layer), Loihi 2 (8-bit weights, 24-bit
state, graded spikes), Xylo (8-bit weights, 16-bit state, up to 31 spikes a step), and ``generic``."""


def target(named: str | Target) -> Target:
    """The profile of this name.

    Raises:
        RecipeError: if there is none.
    """
    if isinstance(named, Target):
        return named
    if not isinstance(named, str) or named not in TARGETS:
        known = ", ".join(TARGETS)
        remedy = f"use one of {known}, or rb.network.generic(weights=8, state=16)"
        raise RecipeError.typed(f"is {named!r}", where="target", remedy=remedy)
    return TARGETS[named]
