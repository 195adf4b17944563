"""The tables of a comparison: Markdown, CSV, LaTeX, plain values and the terminal, all from the same columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from rheobase.comparison.cells import Cell, number
from rheobase.comparison.comparison import Comparison, Entry, Spread, spans


@dataclass(frozen=True)
class Column:
    """One measured thing.

    Attributes:
        name: in files.
        heading: for people, with the unit.
        value: of a cell that was done; None where it is not there.
        digits: after the point.
        best: +1 where more is better, -1 where less is, 0 where neither.
    """

    name: str
    heading: str
    value: Callable[[Cell], float | None]
    digits: int
    best: int = 0

    def text(self, spread: Spread | None, plus_minus: str = " ± ") -> str:
        """Mean, with the deviation where there are several seeds."""
        if spread is None:
            return "–"
        mean = f"{spread.mean:.{self.digits}f}"
        return mean if spread.deviation is None else f"{mean}{plus_minus}{spread.deviation:.{self.digits}f}"


COLUMNS = (
    Column("accuracy", "accuracy (%)", number("test", "accuracy", 100), 2, +1),
    Column("agreement", "agreement with ANN (%)", number("test", "agreement", 100), 2, +1),
    Column("logit_error", "logit error", number("test", "logit_error"), 3, -1),
    Column("spike_rate", "spikes / neuron / step", number("test", "spike_rate"), 4),
    Column("latency", "latency (steps)", number("latency", "final"), 0, -1),
    Column("latency_streaming", "if streaming (steps)", number("latency", "streaming"), 0),
    Column("energy_ratio", "energy / ANN", number("test", "energy_ratio"), 3, -1),
    Column("calibration_seconds", "calibration (s)", lambda cell: cell.calibration_seconds, 1),
    Column("training_seconds", "training (s)", lambda cell: cell.training_seconds, 1),
)


def columns(comparison: Comparison) -> tuple[Column, ...]:
    """Those that hold anything: no accuracy without labels, no training where nothing was trained."""
    return tuple(c for c in COLUMNS if any(entry.over_seeds(c.value) is not None for entry in comparison.entries))


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Every entry as plain values: mean and deviation of each column, and how many seeds were done."""
    return [
        {
            "method": entry.method,
            "timesteps": entry.timesteps,
            "seeds": len(entry.done),
            "seeds_wanted": len(entry.cells),
            **{column.name: _plain(entry.over_seeds(column.value)) for column in COLUMNS},
        }
        for entry in comparison.entries
    ]


def _plain(spread: Spread | None) -> dict[str, float | None] | None:
    return None if spread is None else {"mean": spread.mean, "deviation": spread.deviation}


def cells_of(comparison: Comparison, entry: Entry, plus_minus: str = " ± ") -> list[str]:
    """An entry's row as text: method, T, columns."""
    few = "" if len(entry.done) in (0, len(entry.cells)) else f" ({len(entry.done)} of {len(entry.cells)} seeds)"
    texts = [column.text(entry.over_seeds(column.value), plus_minus) for column in columns(comparison)]
    return [entry.method + few, str(entry.timesteps), *texts]


def did_not_run(comparison: Comparison) -> list[str]:
    """A line for each method and reason."""
    return [
        f"{method} ({spans(cells, comparison.timesteps, comparison.seeds)}): {reason}"
        for (method, reason), cells in comparison.missing.items()
    ]


def _headings(comparison: Comparison) -> list[str]:
    return ["method", "T", *(column.heading for column in columns(comparison))]


def _ran(comparison: Comparison) -> list[Entry]:
    return [entry for entry in comparison.entries if entry.done]


def caption(comparison: Comparison) -> str:
    """On what the numbers were got."""
    about, seeds = comparison.about, comparison.seeds
    accuracy = about.ann_accuracy["test"]
    ann = "" if accuracy is None else f" (analog network: {100 * accuracy:.2f} %)"
    over = f"; mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else ""
    images, counted = about.images["test"], about.identity.energy_images
    energy = f", spikes counted for the energy on {counted} of them" if counted < images else ""
    return f"{about.network} on {images} test images{ann}{energy}{over}"


def markdown(comparison: Comparison) -> str:
    """A pipe table; text to the left, numbers to the right."""
    headings = _headings(comparison)
    lines = [f"| {' | '.join(headings)} |", "| --- |" + " --: |" * (len(headings) - 1)]
    for entry in _ran(comparison):
        lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells_of(comparison, entry))} |")
    lines += ["", f"{caption(comparison)}."]
    missing = did_not_run(comparison)
    if missing:
        lines += ["", "Did not run:", "", *(f"- {line}" for line in missing)]
    if comparison.choice is not None:
        lines += ["", f"Choice: {comparison.choice.reason}"]
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """One line an entry, those that did not run included, with empty numbers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [name for column in COLUMNS for name in (column.name, f"{column.name}_deviation")]
    writer.writerow(["method", "timesteps", "seeds", *names])
    for entry in comparison.entries:
        values: list[float | None] = []
        for column in COLUMNS:
            spread = entry.over_seeds(column.value)
            values += [None, None] if spread is None else [spread.mean, spread.deviation]
        writer.writerow([entry.method, entry.timesteps, len(entry.done), *(_number(value) for value in values)])
    return file.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "–": "--"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)


def latex(comparison: Comparison) -> str:
    r"""A ``tabular`` with the rules of booktabs, to be ``\input`` into a table."""
    headings = [escape_latex(heading) for heading in _headings(comparison)]
    lines = [
        f"% {caption(comparison)}",
        r"\begin{tabular}{l" + "r" * (len(headings) - 1) + "}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
    ]
    previous = None
    for entry in _ran(comparison):
        if previous not in (None, entry.method):
            lines.append(r"\addlinespace")
        name, *numbers = cells_of(comparison, entry, r" \pm ")
        shown = [f"${number}$" if r"\pm" in number else escape_latex(number) for number in numbers]
        lines.append(" & ".join([escape_latex(name), *shown]) + r" \\")
        previous = entry.method
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def print_table(comparison: Comparison, console: Console) -> None:
    """Print the table, what did not run, and the choice."""
    table = Table(title=caption(comparison))
    for i, heading in enumerate(_headings(comparison)):
        table.add_column(heading, justify="right" if i else "left")
    previous = None
    for entry in _ran(comparison):
        if previous not in (None, entry.method):
            table.add_section()
        table.add_row(*cells_of(comparison, entry))
        previous = entry.method
    console.print(table)
    missing = did_not_run(comparison)
    if missing:
        console.print("Did not run:")
    for line in missing:
        console.print(f"  - {line}", soft_wrap=True)
    if comparison.choice is not None:
        console.print(f"Choice: {comparison.choice.reason}", soft_wrap=True)
