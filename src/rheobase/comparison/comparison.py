"""A comparison: its cells, their means and deviations over seeds, and the method that fits a budget."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rheobase.comparison.cells import Cell, Identity, number
from rheobase.comparison.folder import PLOT_FILES, REPORT_FILE, TABLE_FILES, write
from rheobase.core.errors import DataError, RecipeError
from rheobase.methods import Recipe

if TYPE_CHECKING:
    from rheobase.comparison.plots import Plot


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
class Spread:
    """Mean and sample standard deviation (n − 1) over seeds; the latter is None for one seed."""

    mean: float
    deviation: float | None


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

    def over_seeds(self, value: Callable[[Cell], float | None]) -> Spread | None:
        """Mean and deviation of something over the seeds that were done; None if none was, or it is not there."""
        values = [value(cell) for cell in self.done]
        known = [number for number in values if number is not None]
        if not known or len(known) < len(values):
            return None
        return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


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
class Comparison:
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
    choice: Choice | None = field(default=None)

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

    @cached_property
    def plots(self) -> dict[str, Plot]:
        """Accuracy against ``"timesteps"``, ``"latency"`` and ``"energy"``, as SVG; none where nothing ran."""
        from rheobase.comparison.plots import draw

        return draw(self)

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
        from rheobase.comparison.tables import rows

        return {
            "about": {**asdict(self.about), "identity": self.about.identity.model_dump()},
            "entries": rows(self),
            "cells": [cell.model_dump(mode="json", exclude={"identity", "recipe", "training"}) for cell in self.cells],
            "recipes": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            "choice": None if self.choice is None else asdict(self.choice),
        }

    def to_markdown(self) -> str:
        """As a Markdown table, with what did not run below it."""
        from rheobase.comparison.tables import markdown

        return markdown(self)

    def to_csv(self) -> str:
        """As comma-separated values: a column for each mean and each deviation."""
        from rheobase.comparison.tables import csv_text

        return csv_text(self)

    def to_latex(self) -> str:
        """As a LaTeX ``tabular`` in the manner of booktabs."""
        from rheobase.comparison.tables import latex

        return latex(self)

    def to_html(self) -> str:
        """As one self-contained page."""
        from rheobase.comparison.html import page

        return page(self)

    def print(self, console: Console) -> None:
        """Print the table to a rich console, and what did not run."""
        from rheobase.comparison.tables import print_table

        print_table(self, console)

    def __str__(self) -> str:
        return self.to_markdown()

    def write(self, folder: Path) -> None:
        """Write report, tables and plots into a folder that exists.

        Raises:
            StoreError: if it cannot be written.
        """
        tables = {"markdown": self.to_markdown(), "csv": self.to_csv(), "latex": self.to_latex()}
        files = {TABLE_FILES[kind]: text for kind, text in tables.items()}
        files |= {PLOT_FILES[kind]: plot.file for kind, plot in self.plots.items()}
        write(folder, {**files, REPORT_FILE: self.to_html()})
        for plot in set(PLOT_FILES.values()) - set(files):  # of what was asked before
            (folder / plot).unlink(missing_ok=True)


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


def spans(cells: Iterable[Cell], all_timesteps: Mapping[int, Any] | tuple[int, ...], all_seeds: tuple[int, ...]) -> str:
    """Which T and seeds some cells are of, in words."""
    steps = sorted({cell.timesteps for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    words = "every T" if len(steps) == len(all_timesteps) else f"T = {', '.join(map(str, steps))}"
    return words if len(seeds) == len(all_seeds) else f"{words}; seed {', '.join(map(str, seeds))}"
