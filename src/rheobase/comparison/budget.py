"""The choice within a budget: limits of latency, energy and bits a spike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rheobase.core.checks import check_positive
from rheobase.core.errors import RecipeError
from rheobase.neurons.response import Alphabet

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
        accuracy: fraction of correct predictions; None without labels or if it was not converted.
        agreement: fraction of images on which the analog network predicts the same class; None: not converted.
    """

    in_json = ("bits",)

    method: str
    timesteps: int
    alphabet: Alphabet | None
    latency: float
    energy: float = math.nan
    accuracy: float | None = None
    agreement: float | None = None

    @property
    def bits(self) -> float:
        """Bits a spike, log2 of the size of the alphabet, to the two decimals of a table; infinite if it is unknown."""
        return math.inf if self.alphabet is None else round(self.alphabet.bits, 2)

    @property
    def score(self) -> float:
        """Accuracy; without labels, agreement; -1 if it was not converted."""
        return next((value for value in (self.accuracy, self.agreement) if value is not None), -1.0)

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
        kind = "accuracy" if self.accuracy is not None else "agreement with the analog network"
        numbers = [f"{100 * self.score:.2f} % {kind}"] if self.score >= 0 else []
        numbers.append(f"latency {self.latency:.3g} steps")
        numbers += [] if math.isnan(self.energy) else [f"energy {self.energy:.3g} of the analog network's"]
        numbers += [] if self.alphabet is None else [f"alphabet {self.alphabet.label}"]
        return ", ".join(numbers)


@dataclass(frozen=True)
class Choice:
    """The most accurate method within a budget.

    Method and T are None if none fits; the reason is a sentence with the numbers of the choice, or of the nearest.
    """

    budget: dict[str, float]
    method: str | None
    timesteps: int | None
    reason: str


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
    most = "most accurate" if best.accuracy is not None else "nearest to the analog network"
    number = f"{len(fitting)} {'entry' if len(fitting) == 1 else 'entries'} (method and T)"
    reason = f"{best}: of {number} within {limits}, the {most} on the {images} ({best.numbers})."
    return Choice(budget, best.method, best.timesteps, reason)
