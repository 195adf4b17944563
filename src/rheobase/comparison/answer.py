"""The answer of a comparison, with which its report begins: the best method within each budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rheobase.comparison.budget import Candidate, choose
from rheobase.comparison.grid import Comparison, Entry
from rheobase.tasks import AGREEMENT, OUTPUT_ERROR

ENERGIES = (0.1, 0.25, 0.5, 1.0)
"""Limits of the energy, as fractions of the analog network's."""
POINTS = (1, 2, 5)
"""Losses, in points, within which the shortest latency is named; the first that a method keeps."""


@dataclass(frozen=True)
class Best:
    """The best entry within a limit, such as "4 steps"; ``limited`` is the name of what is limited, or None."""

    limited: str | None
    within: str
    entry: Entry


@dataclass(frozen=True)
class Answer:
    """The best entries.

    Attributes:
        part: the images on which they were chosen, ``"validation"`` or ``"test"``.
        sentences: the answer in words, about the test images.
        rows: the best within each latency and energy, where it differs from that of the stricter limit; then without a
            limit.
    """

    part: str
    sentences: tuple[str, ...]
    rows: tuple[Best, ...]


def answer(comparison: Comparison) -> Answer | None:
    """Return the answer; None if no method finished for every seed.

    It is chosen on the validation images. If they are missing or have no labels, it is chosen on the test images.
    """
    about = comparison.about
    part = "validation" if about.ann_score("validation") is not None else "test"
    measure = about.judged_by if part == "test" else about.task.measures[0]
    candidates = comparison.candidates(part, measure)
    if not candidates:
        return None
    entries = {(entry.method, entry.timesteps): entry for entry in comparison.entries}

    def best(name: str, limit: float) -> Entry | None:
        choice = choose(candidates, {name: limit}, part)
        return None if choice.method is None or choice.timesteps is None else entries[choice.method, choice.timesteps]

    rows: list[Best] = []
    latencies = [(t, "1 step" if t == 1 else f"{t} steps") for t in comparison.timesteps]
    energies = [(limit, f"{100 * limit:.0f} % energy") for limit in ENERGIES]
    for name, limits in (("latency", latencies), ("energy", energies)):
        last = None
        for limit, words in limits:
            entry = best(name, limit)
            if entry is not None and entry is not last:
                rows.append(Best(name, words, entry))
            last = entry
    overall = best("latency", math.inf)
    assert overall is not None
    rows.append(Best(None, "no limit", overall))
    sentences = [_overall(comparison, overall), _shortest(comparison, candidates, part, overall)]
    return Answer(part, tuple(filter(None, sentences)), tuple(rows))


def _overall(comparison: Comparison, entry: Entry) -> str:
    """How good the best is, next to the analog network."""
    measure, ann = comparison.about.judged_by, comparison.about.ann_score("test")
    score = entry.mean(f"test.{measure.name}")
    named = f"{entry.method} at T = {entry.timesteps}"
    if measure in (AGREEMENT, OUTPUT_ERROR):
        return f"{named} is nearest to the analog network: {measure.heading} {measure.text(score)}."
    is_best = "is the most accurate" if measure.name == "accuracy" else f"has the best {measure.heading}"
    if ann is None or not measure.share:
        return f"{named} {is_best}: {measure.text(score)}" + ("." if ann is None else f" (analog network: {ann:.4g}).")
    lost = round(measure.scale * (ann - score), 2)
    against = f"{abs(lost):.2f} points {'below' if lost > 0 else 'above'}" if lost else "equal to"
    return f"{named} {is_best}: {measure.text(score)}, {against} the analog network ({measure.text(ann)})."


def _shortest(comparison: Comparison, candidates: list[Candidate], part: str, overall: Entry) -> str:
    """The shortest latency near the analog network; empty if that is the best anyway, or points have no meaning."""
    about = comparison.about
    ann, measure = about.ann_score(part), candidates[0].measure
    if ann is None or measure is None or not measure.share:
        return ""
    for points in POINTS:
        near = [c for c in candidates if measure.scale * (ann - c.value) <= points]
        if near:
            found = min(near, key=lambda c: (c.latency, -c.score, c.energy))
            if (found.method, found.timesteps) == (overall.method, overall.timesteps):
                return ""
            within = f"{points} point{'s' if points > 1 else ''}"
            steps = f"{found.latency:g} step{'s' if found.latency != 1 else ''}"
            return f"The shortest latency that loses at most {within}: {steps}, by {found}."
    return f"No method stays within {POINTS[-1]} points of the analog network."
