"""The grid of a comparison, methods × T × seeds: cells, statistics over seeds, the choice within a budget."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rheobase.comparison.budget import Candidate, Choice, check_limits, choose
from rheobase.comparison.cells import Cell, Identity, Measured
from rheobase.comparison.checks import check_validation
from rheobase.core.results import Column, Result, Spread, Table, plain_values
from rheobase.measure._energy import COUNTED
from rheobase.methods import Recipe
from rheobase.neurons.response import Alphabet
from rheobase.tasks import AGREEMENT, OUTPUT_ERROR, TASKS, Measure, Task

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class About:
    """Network, data and machine of a comparison, for its report.

    ``notes`` are on images that occur in two data sets, and on rewrites by tracing; ``images`` and ``ann_accuracy`` are
    by data set, an accuracy without labels is None. ``ann_scores`` are all measures of the task by data set.
    ``command`` is the command line that made the comparison; None: it was called from Python.
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
    ann_scores: dict[str, dict[str, float]] = field(default_factory=dict)
    command: str | None = None

    @property
    def task(self) -> Task:
        """The task of the network."""
        return TASKS[self.identity.task]

    @property
    def judged_by(self) -> Measure:
        """The measure on the test images that comes first: of the task, or without labels against the ANN."""
        return self.task.measures[0] if self.ann_score("test") is not None else self.task.without_targets

    def ann_score(self, part: str) -> float | None:
        """The first measure of the task for the analog network; None without labels or images."""
        first = self.task.measures[0].name
        known = self.ann_accuracy if first == "accuracy" else {}
        return known.get(part, self.ann_scores.get(part, {}).get(first))


@dataclass(frozen=True)
class Entry:
    """A method at one T, with a cell for each seed."""

    method: str
    timesteps: int
    cells: tuple[Cell, ...]

    @property
    def done(self) -> tuple[Cell, ...]:
        """The cells with results."""
        return tuple(cell for cell in self.cells if cell.status == "done")

    @property
    def label(self) -> str:
        """The method, followed by the number of finished seeds if some are missing."""
        few = 0 < len(self.done) < len(self.cells)
        return f"{self.method} ({len(self.done)} of {len(self.cells)} seeds)" if few else self.method

    @property
    def alphabet(self) -> Alphabet | None:
        """The numbers of spikes that a neuron may emit in one step; None if no cell states them."""
        found = [cell.alphabet for cell in self.done if cell.alphabet is not None]
        return Alphabet.union(found) if found else None

    def over_seeds(self, field: str, scale: float = 1) -> Spread | None:
        """Return mean and deviation of a field such as ``test.accuracy``; None if no cell is done or one lacks it."""
        part, _, name = field.partition(".")
        values = [getattr(cell, part) for cell in self.done]
        if name:
            values = [x.value(name) if isinstance(x, Measured) else x and getattr(x, name) for x in values]
        return None if None in values else Spread.of([scale * value for value in values])

    def mean(self, field: str, scale: float = 1) -> float:
        """Return the mean of a field that the finished seeds have."""
        spread = self.over_seeds(field, scale)
        assert spread is not None
        return spread.mean


@dataclass(frozen=True)
class Quantity:
    """A measured quantity: its name in files and tables, and its field of a cell, to be multiplied by ``scale``.

    ``best`` is +1 if higher is better, -1 if lower is better, else 0.
    """

    name: str
    heading: str
    field: str
    digits: int
    best: int = 0
    scale: float = 1

    def of(self, entry: Entry) -> Spread | None:
        """Mean and deviation over the seeds of an entry."""
        return entry.over_seeds(self.field, self.scale)

    @property
    def column(self) -> Column:
        """A column for a table of entries."""
        return Column(self.heading, self.of, f"{{:.{self.digits}f}}", none="–")


_COSTS = (
    Quantity("spike_rate", "spikes / neuron / step", "test.spike_rate", 4),
    Quantity("bits", "bits / spike", "bits", 2),
    Quantity("latency", "latency (steps)", "latency.final", 0, -1),
    Quantity("latency_streaming", "if streaming (steps)", "latency.streaming", 0),
    Quantity("exit_timesteps", "early exit: mean T", "early_exit.mean_timesteps", 2),
    Quantity("exit_score", "early exit: score (%)", "early_exit.score", 2, scale=100),
    Quantity("energy_ratio", "energy / ANN", "test.energy_ratio", 3, -1),
    Quantity("calibration_seconds", "calibration (s)", "calibration_seconds", 1),
    Quantity("training_seconds", "training (s)", "training_seconds", 1),
)


def quantities(task: Task) -> tuple[Quantity, ...]:
    """All quantities of a task, in the order of their columns."""
    scores = [_quantity(measure) for measure in task.measures]
    name = "logit error" if task.decides else OUTPUT_ERROR.heading
    agreement = [_quantity(AGREEMENT)] if task.decides else []
    return (*scores, *agreement, Quantity("logit_error", name, "test.logit_error", 3, -1), *_COSTS)


def _quantity(measure: Measure) -> Quantity:
    digits = 2 if measure.share else 4
    return Quantity(measure.name, measure.title, f"test.{measure.name}", digits, measure.best, measure.scale)


@dataclass(frozen=True)
class Comparison(Result):
    """Results of :func:`rheobase.compare`. Printing it shows the table.

    Attributes:
        about: network, data and machine.
        recipes: the recipes by name, as given.
        cells: one for each method, T and seed, in this order.
        folder: folder of the comparison; None if it is kept in memory.
        choice: the choice within the budget; None without a budget.
    """

    about: About
    recipes: dict[str, Recipe]
    cells: tuple[Cell, ...]
    folder: Path | None = None
    choice: Choice | None = None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Methods × T, each over all seeds."""
        grouped = group(self.cells, lambda cell: (cell.method, cell.timesteps))
        return tuple(Entry(*of, tuple(cells)) for of, cells in grouped.items())

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
        """(method, reason) -> the cells that were refused or failed for this reason."""
        return group([c for c in self.cells if c.status != "done"], lambda cell: (cell.method, cell.reason or ""))

    def choose(self, latency: float | None = None, energy: float | None = None, bits: float | None = None) -> Choice:
        """Choose the best method and T by the task's first measure on the validation images, within a budget.

        Ties are decided by lower energy, then lower latency. Only methods that finished for every seed are considered,
        by their means over seeds. The energy is measured on the validation images too. Test images are not used.

        Args:
            latency: maximum number of time-steps until the final logits.
            energy: maximum energy of the spiking network, as a fraction of the analog network's.
            bits: maximum bits a spike, log2 of the size of the alphabet.

        Raises:
            DataError: without validation images, or without their labels.
            RecipeError: if no budget is given, or one is not a positive number.
        """
        limits = (("latency", latency), ("energy", energy), ("bits", bits))
        budget = check_limits({name: value for name, value in limits if value is not None})
        about = self.about
        check_validation(about.ann_score("validation") is not None if "validation" in about.images else None)
        candidates = self.candidates("validation", about.task.measures[0])
        return choose(candidates, budget, f"{about.images['validation']} validation images")

    def candidates(self, part: str, measure: Measure) -> list[Candidate]:
        """The methods that finished for every seed, with their means on the ``"test"`` or ``"validation"`` images."""
        return [
            Candidate(
                entry.method,
                entry.timesteps,
                entry.alphabet,
                latency=entry.mean("latency.final"),
                energy=entry.mean(f"{part}.energy_ratio"),
                measure=measure,
                value=entry.mean(f"{part}.{measure.name}"),
            )
            for entry in self.entries
            if len(entry.done) == len(entry.cells)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return network and data, entries, cells (without ``layers``), recipes and choice as plain values."""
        left_out = {"identity", "recipe", "training", "layers"}  # the loss of every layer would be most of the page
        return {
            "about": plain_values(self.about),
            "entries": [
                {
                    "method": entry.method,
                    "timesteps": entry.timesteps,
                    "seeds": len(entry.done),
                    "seeds_wanted": len(entry.cells),
                    "alphabet": plain_values(entry.alphabet),
                    **{quantity.name: plain_values(quantity.of(entry)) for quantity in quantities(self.about.task)},
                }
                for entry in self.entries
            ],
            "cells": [cell.model_dump(mode="json", exclude=left_out) for cell in self.cells],
            "recipes": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            "choice": plain_values(self.choice),
        }

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Quantities with values: no accuracy without labels, no training time without training."""
        return tuple(found for found in quantities(self.about.task) if any(map(found.of, self.entries)))

    @property
    def caption(self) -> str:
        """Network, images and seeds of the table."""
        about, seeds = self.about, self.seeds
        score, measure = about.ann_score("test"), about.judged_by
        named = "" if measure.name == "accuracy" else f"{measure.heading} "
        ann = "" if score is None else f" (analog network: {named}{measure.text(score)})"
        over = f"; mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else ""
        images, counted = about.images["test"], about.identity.energy_images
        energy = f", spikes counted for the energy on {counted} of them" if counted < images else ""
        graded = any(entry.alphabet is not None and entry.alphabet.magnitude > 1 for entry in self.entries)
        counting = f"; for the energy, {COUNTED[about.identity.graded_spikes]}" if graded else ""
        return f"{about.network} on {images} test images{ann}{energy}{counting}{over}"

    def table(self) -> Table:
        """One row for each method and T with results."""
        alphabet = Column("alphabet", "alphabet", align="left")
        named = (Column("method", "label", align="left"), Column("T", "timesteps"), alphabet)
        columns = (*named, *(quantity.column for quantity in self.quantities))
        ran = [entry for entry in self.entries if entry.done]
        return Table(columns, ran, self.caption, section=lambda entry: entry.method)

    def summary(self) -> str:
        """Methods that did not run, with reasons, and the choice."""
        parts = []
        if self.missing:
            lines = (f"- {method} ({self.spans(cells)}): {reason}" for (method, reason), cells in self.missing.items())
            parts.append("\n".join(("Did not run:\n", *lines)))
        if self.choice is not None:
            parts.append(f"Choice: {self.choice.reason}")
        return "\n\n".join(parts)

    def to_markdown(self) -> str:
        """Return a Markdown table, followed by its caption and the methods that did not run."""
        return "\n\n".join(filter(None, (self.table().markdown(), f"{self.caption}.", self.summary()))) + "\n"

    def to_latex(self) -> str:
        """Return a LaTeX ``tabular`` for the package booktabs."""
        return f"% {self.caption}\n{self.table().latex()}"

    def to_csv(self) -> str:
        """Return comma-separated values: one row per method and T, one column per mean and per deviation."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        columns = quantities(self.about.task)
        names = [name for quantity in columns for name in (quantity.name, f"{quantity.name}_deviation")]
        writer.writerow(["method", "timesteps", "seeds", "alphabet", *names])
        for entry in self.entries:
            spreads = [quantity.of(entry) for quantity in columns]
            numbers = [number for s in spreads for number in ((s.mean, s.deviation) if s else (None, None))]
            texts = ["" if number is None else f"{number:.6g}" for number in numbers]
            writer.writerow([entry.method, entry.timesteps, len(entry.done), entry.alphabet or "", *texts])
        return file.getvalue()

    def spans(self, cells: Iterable[Cell]) -> str:
        """Describe the T and seeds of some cells."""
        steps = sorted({cell.timesteps for cell in cells})
        seeds = sorted({cell.seed for cell in cells})
        words = "every T" if len(steps) == len(self.timesteps) else f"T = {', '.join(map(str, steps))}"
        return words if len(seeds) == len(self.seeds) else f"{words}; seed {', '.join(map(str, seeds))}"


def group(cells: Iterable[Cell], by: Callable[[Cell], K]) -> dict[K, list[Cell]]:
    """Group cells, in their order, by a value of each."""
    grouped: dict[K, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(by(cell), []).append(cell)
    return grouped
