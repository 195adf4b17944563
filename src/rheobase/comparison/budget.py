"""The choice within a budget: limits of latency, energy and bits a spike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rheobase.core.checks import check_positive
from rheobase.core.errors import RecipeError
from rheobase.neurons.response import Alphabet
from rheobase.tasks import AGREEMENT, OUTPUT_ERROR, Measure

LIMITS = {
    "latency": "a latency of {:g} steps",
    "energy": "{:g} of the analog network's energy",
    "bits": "{:.3g} bits a spike",
}
"""Names of the limits, and how a limit is written."""


@dataclass(frozen=True)
class Candidate:
    """A method at one T, with the quantities that a budget limits.

    Attributes:
        method: name of the recipe.
        timesteps: T.
        alphabet: the numbers of spikes that a neuron may emit in one step; None: unknown.
        latency: time-steps to the final logits.
        energy: as a fraction of the analog network's; NaN if the candidate was not converted.
        measure: the measure by which candidates are chosen; None: not converted.
        value: its value.
        accuracy, agreement, output_error: as in the rows of :func:`rheobase.evaluate`, where the last is
            ``logit_error``; None: not known.
    """

    in_json = ("bits",)

    method: str
    timesteps: int
    alphabet: Alphabet | None
    latency: float
    energy: float = math.nan
    measure: Measure | None = None
    value: float = math.nan
    accuracy: float | None = None
    agreement: float | None = None
    output_error: float | None = None

    @property
    def bits(self) -> float:
        """Bits a spike, log2 of the size of the alphabet, to the two decimals of a table; infinite if it is unknown."""
        return math.inf if self.alphabet is None else round(self.alphabet.bits, 2)

    @property
    def score(self) -> float:
        """The value of the measure, of which a higher one is better; -∞ if it is not known."""
        return -math.inf if self.measure is None or math.isnan(self.value) else self.measure.best * self.value

    def exceeded(self, budget: Mapping[str, float]) -> list[str]:
        """The limits that it exceeds, as far as its quantities are known."""
        return [name for name, limit in budget.items() if getattr(self, name) > limit]

    def excess(self, budget: Mapping[str, float]) -> float:
        """The largest ratio of a known quantity to its limit."""
        ratios = (getattr(self, name) / limit for name, limit in budget.items())
        return max((ratio for ratio in ratios if not math.isnan(ratio)), default=0.0)

    def __str__(self) -> str:
        return f"{self.method} at T = {self.timesteps}"

    @property
    def numbers(self) -> str:
        """All its numbers that are known, as text."""
        known = self.measure is not None and not math.isnan(self.value)
        numbers = [_described(self.measure, self.value)] if self.measure is not None and known else []
        numbers.append(f"latency {self.latency:.3g} steps")
        numbers += [] if math.isnan(self.energy) else [f"energy {self.energy:.3g} of the analog network's"]
        numbers += [] if self.alphabet is None else [f"alphabet {self.alphabet.label}"]
        return ", ".join(numbers)


@dataclass(frozen=True)
class Choice:
    """The best method within a budget.

    Method and T are None if none fits; the reason is a sentence with the numbers of the choice, or of the nearest.
    """

    budget: dict[str, float]
    method: str | None
    timesteps: int | None
    reason: str


def _described(measure: Measure, value: float) -> str:
    """A value with its unit and name."""
    if measure.share:
        return f"{measure.text(value)} {measure.heading.replace('ANN', 'the analog network')}"
    return f"{measure.heading} {measure.text(value)}"


def check_limits(budget: object) -> dict[str, float]:
    """Return the limits of a budget; refuse another type, unknown names, none, and numbers that are not positive."""
    if not isinstance(budget, Mapping):
        raise RecipeError(f"is {budget!r}", where="budget", remedy='give a mapping, such as {"latency": 8}')
    unknown = [name for name in budget if name not in LIMITS]
    if unknown or not budget:
        raise RecipeError(
            f"has the unknown field {unknown[0]!r}" if unknown else "is empty",
            where="budget",
            remedy="give latency (time-steps), energy (a fraction of the analog network's), bits (log2 of the size of "
            "the alphabet), or several of them",
        )
    return {name: check_positive(value, f"budget {name}") for name, value in budget.items()}


def choose(candidates: Sequence[Candidate], budget: dict[str, float], images: str) -> Choice:
    """Choose the candidate with the highest score within a budget; of equal ones the cheaper, then the faster.

    Args:
        candidates: from which to choose.
        budget: the limits, checked.
        images: the images on which the candidates were measured, for the reason.
    """
    fitting = [candidate for candidate in candidates if not candidate.exceeded(budget)]
    limits = " and ".join(LIMITS[name].format(value) for name, value in budget.items())
    if not fitting:
        nearest = min(candidates, key=lambda c: (c.excess(budget), -c.score), default=None)
        said = "no method ran" if nearest is None else f"the nearest is {nearest} ({nearest.numbers})"
        return Choice(budget, None, None, f"No method fits within {limits}: {said}.")
    best = min(fitting, key=lambda c: (-c.score, c.energy, c.latency))
    by = best.measure
    if by in (AGREEMENT, OUTPUT_ERROR):
        most = "nearest to the analog network"
    else:
        most = "most accurate" if by is None or by.name == "accuracy" else f"best {by.heading}"
    number = f"{len(fitting)} {'entry' if len(fitting) == 1 else 'entries'} (method and T)"
    reason = f"{best}: of {number} within {limits}, the {most} on the {images} ({best.numbers})."
    return Choice(budget, best.method, best.timesteps, reason)
