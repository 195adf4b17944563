"""Quantities of a comparison's tables, in the order of their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rheobase.comparison.cells import Cell, number
from rheobase.core.results import Column


@dataclass(frozen=True)
class Quantity:
    """A measured quantity.

    Attributes:
        name: name in files.
        heading: heading in tables, with the unit.
        value: value of a finished cell; None if missing.
        digits: number of decimals.
        best: +1: higher is better, -1: lower is better, 0: neither.
    """

    name: str
    heading: str
    value: Callable[[Cell], float | None]
    digits: int
    best: int = 0

    @property
    def column(self) -> Column:
        """Mean and deviation over the seeds of an :class:`~rheobase.comparison.grid.Entry`."""
        return Column(self.heading, lambda entry: entry.over_seeds(self.value), f"{{:.{self.digits}f}}", none="–")


QUANTITIES = (
    Quantity("accuracy", "accuracy (%)", number("test", "accuracy", 100), 2, +1),
    Quantity("agreement", "agreement with ANN (%)", number("test", "agreement", 100), 2, +1),
    Quantity("logit_error", "logit error", number("test", "logit_error"), 3, -1),
    Quantity("spike_rate", "spikes / neuron / step", number("test", "spike_rate"), 4),
    Quantity("latency", "latency (steps)", number("latency", "final"), 0, -1),
    Quantity("latency_streaming", "if streaming (steps)", number("latency", "streaming"), 0),
    Quantity("energy_ratio", "energy / ANN", number("test", "energy_ratio"), 3, -1),
    Quantity("calibration_seconds", "calibration (s)", lambda cell: cell.calibration_seconds, 1),
    Quantity("training_seconds", "training (s)", lambda cell: cell.training_seconds, 1),
)
