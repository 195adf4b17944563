"""Energy of single operations."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from rheobase.core.errors import RecipeError
from rheobase.core.values import Value


class Costs(Value):
    """Energy of one operation of each kind, in picojoules.

    Args:
        name: shown in tables.
        mac: multiply-accumulate.
        ac: accumulate: an addition.
        update: addition to a potential or a counter; default ``ac``.
        comparison: comparison of a potential with a threshold; 0 (default): unknown, listed as not counted.

    Raises:
        RecipeError: if a field is unknown, negative or not finite.

    Example:
        >>> Costs(name="mine", mac=2.0, ac=0.5).update
        0.5
    """

    place: ClassVar[str | None] = "costs"

    name: str = Field(min_length=1)
    mac: float = Field(ge=0, allow_inf_nan=False)
    ac: float = Field(ge=0, allow_inf_nan=False)
    update: float = Field(default_factory=lambda values: values["ac"], ge=0, allow_inf_nan=False)
    comparison: float = Field(default=0.0, ge=0, allow_inf_nan=False)


COSTS: dict[str, Costs] = {
    costs.name: costs
    for costs in (Costs(name="fp32-45nm", mac=4.6, ac=0.9), Costs(name="int8-45nm", mac=0.23, ac=0.03))
}
"""45 nm CMOS (Horowitz 2014, Fig. 1.1.9; PASCAL, Table 10): additions, and multiplications with an addition."""


def read_costs(costs: str | Costs) -> Costs:
    """Return the costs of that name, or the given ones.

    Raises:
        RecipeError: if the name is unknown.
    """
    if isinstance(costs, Costs):
        return costs
    if not isinstance(costs, str) or costs not in COSTS:
        raise RecipeError(
            f"{costs!r} is unknown",
            where="costs",
            remedy=f"use {', '.join(COSTS)}, or rb.measure.Costs(name=..., mac=..., ac=...)",
        )
    return COSTS[costs]
