"""The grid of a comparison, methods × T × seeds: its cells, their spread over seeds, the choice within a budget."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rheobase.comparison.cells import Cell, Identity, number
from rheobase.comparison.quantities import QUANTITIES, Quantity
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.results import Column, Result, Spread, Table, plain_values
from rheobase.methods import Recipe


@dataclass(frozen=True)
class About:
    """What was compared, for the reader of a report.

    Attributes:
        network: its name.
        sites: activation sites, each a layer of neurons.
        neurons: in all of them.
        notes: images that are in two parts of the data, and what tracing rewrote.
        images: part of the data -> how many.
        ann_accuracy: part of the data -> the analog network's accuracy; None without labels.
        identity: hashes and versions.
        training: settings for methods that need one.
        machine: on which the numbers were got, or read again.
    """

    network: str
    sites: int
    neurons: int
    notes: tuple[str, ...]
    images: dict[str, int]
    ann_accuracy: dict[str, float | None]
    identity: Identity
    training: dict[str, Any] | None
    machine: dict[str, str | int]


@dataclass(frozen=True)
class Entry:
    """A method at one T, over all seeds.

    Attributes:
        method, timesteps: of which.
        cells: one for each seed.
    """

    method: str
    timesteps: int
    cells: tuple[Cell, ...]

    @property
    def done(self) -> tuple[Cell, ...]:
        """The cells with numbers."""
        return tuple(cell for cell in self.cells if cell.status == "done")

    @property
    def label(self) -> str:
        """The method, with how many seeds were done where others were not."""
        few = 0 < len(self.done) < len(self.cells)
        return f"{self.method} ({len(self.done)} of {len(self.cells)} seeds)" if few else self.method

    def over_seeds(self, value: Callable[[Cell], float | None]) -> Spread | None:
        """Mean and deviation of something over the seeds that were done; None if none was, or it is not there."""
        values = [value(cell) for cell in self.done]
        known = [number for number in values if number is not None]
        return Spread.of(known) if len(known) == len(values) else None


@dataclass(frozen=True)
class Choice:
    """What to take within a budget.

    Attributes:
        budget: ``latency`` in time-steps, ``energy`` as a fraction of the analog network's.
        method, timesteps: the most accurate on the validation images within the budget; None if none fits.
        reason: the choice in a sentence, with the numbers it was made by.
    """

    budget: dict[str, float]
    method: str | None
    timesteps: int | None
    reason: str


@dataclass(frozen=True)
class Comparison(Result):
    """Results of :func:`rheobase.compare`. Printing it shows the table.

    Attributes:
        about: what was compared.
        recipes: the methods by name, as they were given.
        cells: one for each method, T and seed, in this order.
        folder: where it is kept, if anywhere.
        choice: what fits the budget, if one was given.
    """

    about: About
    recipes: dict[str, Recipe]
    cells: tuple[Cell, ...]
    folder: Path | None = None
    choice: Choice | None = None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Methods × T, each over all seeds."""
        grouped: dict[tuple[str, int], list[Cell]] = {}
        for cell in self.cells:
            grouped.setdefault((cell.method, cell.timesteps), []).append(cell)
        return tuple(Entry(method, t, tuple(cells)) for (method, t), cells in grouped.items())

    @property
    def timesteps(self) -> tuple[int, ...]:
        """All T, ascending."""
        return tuple(sorted({cell.timesteps for cell in self.cells}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, in the order given."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def missing(self) -> dict[tuple[str, str], list[Cell]]:
        """(method, reason) -> the cells that were not done for it."""
        grouped: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            if cell.status != "done":
                grouped.setdefault((cell.method, cell.reason or ""), []).append(cell)
        return grouped

    def choose(self, latency: float | None = None, energy: float | None = None) -> Choice:
        """The method and T with the highest accuracy on the validation images, within a budget.

        Of equals, the one with less energy, then with less latency. Only what was done for every seed is considered, by
        its mean over seeds; energy is that on the validation images too. Test images have no say.

        Args:
            latency: time-steps until the final answer, at most.
            energy: energy of the spiking network, as a fraction of the analog network's, at most.

        Raises:
            DataError: without validation images, or without their labels.
            RecipeError: if no budget is given.
        """
        budget = {name: value for name, value in (("latency", latency), ("energy", energy)) if value is not None}
        if not budget:
            raise RecipeError("is empty", where="budget", remedy="give latency=... or energy=...")
        if "validation" not in self.about.images:
            raise DataError(
                "are needed to choose a method: nothing is chosen by test images",
                where="validation images",
                remedy="compare again with validation=...",
            )
        if self.about.ann_accuracy["validation"] is None:
            raise DataError("have no labels, so no accuracy to choose by", where="validation images")
        candidates = [_candidate(entry) for entry in self.entries if len(entry.done) == len(entry.cells)]
        fitting = [c for c in candidates if all(c[name] <= limit for name, limit in budget.items())]
        limits = " and ".join(_limit(name, value) for name, value in budget.items())
        if not fitting:
            nearest = "; ".join(
                f"the least {_NAMES[name]} is {best[name]:.3g}, of {best['method']} at T = {best['timesteps']}"
                for name in budget
                for best in sorted(candidates, key=lambda c: (c[name], -c["accuracy"]))[:1]
            )
            return Choice(budget, None, None, f"No method fits within {limits}: {nearest or 'no method ran'}.")
        best = min(fitting, key=lambda c: (-c["accuracy"], c["energy"], c["latency"]))
        reason = (
            f"{best['method']} at T = {best['timesteps']}: of {len(fitting)} "
            f"{'entry' if len(fitting) == 1 else 'entries'} (method and T) within {limits}, the most accurate on the "
            f"{self.about.images['validation']} validation images ({100 * best['accuracy']:.2f} %, "
            f"latency {best['latency']:.3g} steps, energy {best['energy']:.3g} of the analog network's there)."
        )
        return Choice(budget, best["method"], best["timesteps"], reason)

    def to_json(self) -> dict[str, Any]:
        """As plain values: what was compared, the cells, the choice."""
        return {
            "about": plain_values(self.about),
            "entries": [
                {
                    "method": entry.method,
                    "timesteps": entry.timesteps,
                    "seeds": len(entry.done),
                    "seeds_wanted": len(entry.cells),
                    **{quantity.name: plain_values(entry.over_seeds(quantity.value)) for quantity in QUANTITIES},
                }
                for entry in self.entries
            ],
            "cells": [cell.model_dump(mode="json", exclude={"identity", "recipe", "training"}) for cell in self.cells],
            "recipes": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            "choice": plain_values(self.choice),
        }

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Those that hold anything: no accuracy without labels, no training where nothing was trained."""
        return tuple(q for q in QUANTITIES if any(entry.over_seeds(q.value) is not None for entry in self.entries))

    @property
    def caption(self) -> str:
        """On what the numbers were got."""
        about, seeds = self.about, self.seeds
        accuracy = about.ann_accuracy["test"]
        ann = "" if accuracy is None else f" (analog network: {100 * accuracy:.2f} %)"
        over = f"; mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else ""
        images, counted = about.images["test"], about.identity.energy_images
        energy = f", spikes counted for the energy on {counted} of them" if counted < images else ""
        return f"{about.network} on {images} test images{ann}{energy}{over}"

    def table(self) -> Table:
        """A row for each method and T that ran."""
        named = (Column("method", "label", align="left"), Column("T", "timesteps"))
        columns = (*named, *(quantity.column for quantity in self.quantities))
        ran = [entry for entry in self.entries if entry.done]
        return Table(columns, ran, self.caption, section=lambda entry: entry.method)

    def summary(self) -> str:
        """What did not run and why, and the choice."""
        parts = []
        if self.missing:
            lines = (f"- {method} ({self.spans(cells)}): {reason}" for (method, reason), cells in self.missing.items())
            parts.append("\n".join(("Did not run:\n", *lines)))
        if self.choice is not None:
            parts.append(f"Choice: {self.choice.reason}")
        return "\n\n".join(parts)

    def to_markdown(self) -> str:
        """As a Markdown table, with its caption and what did not run below it."""
        return "\n\n".join(filter(None, (self.table().markdown(), f"{self.caption}.", self.summary()))) + "\n"

    def to_latex(self) -> str:
        """As a LaTeX ``tabular`` in the manner of booktabs."""
        return f"% {self.caption}\n{self.table().latex()}"

    def to_csv(self) -> str:
        """As comma-separated values: a row for each method and T, a column for each mean and each deviation.

        What did not run is included, with empty numbers.
        """
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        names = [name for quantity in QUANTITIES for name in (quantity.name, f"{quantity.name}_deviation")]
        writer.writerow(["method", "timesteps", "seeds", *names])
        for entry in self.entries:
            spreads = [entry.over_seeds(quantity.value) for quantity in QUANTITIES]
            numbers = [number for s in spreads for number in ((None, None) if s is None else (s.mean, s.deviation))]
            texts = ["" if number is None else f"{number:.6g}" for number in numbers]
            writer.writerow([entry.method, entry.timesteps, len(entry.done), *texts])
        return file.getvalue()

    def spans(self, cells: Iterable[Cell]) -> str:
        """Which T and seeds some cells are of, in words."""
        steps = sorted({cell.timesteps for cell in cells})
        seeds = sorted({cell.seed for cell in cells})
        words = "every T" if len(steps) == len(self.timesteps) else f"T = {', '.join(map(str, steps))}"
        return words if len(seeds) == len(self.seeds) else f"{words}; seed {', '.join(map(str, seeds))}"


_NAMES = {"latency": "latency", "energy": "energy ratio"}


def _limit(name: str, value: float) -> str:
    return f"a latency of {value:g} steps" if name == "latency" else f"{value:g} of the analog network's energy"


def _candidate(entry: Entry) -> dict[str, Any]:
    """An entry by its validation images."""

    def mean(value: Callable[[Cell], float | None]) -> float:
        spread = entry.over_seeds(value)
        assert spread is not None
        return spread.mean

    return {
        "method": entry.method,
        "timesteps": entry.timesteps,
        "accuracy": mean(number("validation", "accuracy")),
        "latency": mean(number("latency", "final")),
        "energy": mean(number("validation", "energy_ratio")),
    }
