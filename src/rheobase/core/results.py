"""Results of measurements, as tables (Markdown, LaTeX, terminal) and as plain values for JSON."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal

from pydantic import BaseModel
from rich import table as rich_table
from rich.console import Console
from tabulate import SEPARATING_LINE, tabulate


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its heading, with the unit.
        value: attribute of a row, or a function of the row. The cell is empty if the row lacks the attribute.
        form: format of the value, as for :meth:`str.format`.
        scale: factor of the value, such as 100 for per cent.
        align: alignment of its cells.
        none: text for None.

    Example:
        >>> Column("share", "real", "{:.1f} %", scale=100).text(0.25)
        '25.0 %'
    """

    heading: str
    value: str | Callable[[Any], Any]
    form: str = "{}"
    scale: float | None = None
    align: Literal["left", "right"] = "right"
    none: str = "-"

    def text(self, row: Any) -> str:
        """The cell of a row."""
        value: Any = getattr(row, self.value, "") if isinstance(self.value, str) else self.value(row)
        if value is None or value == "":
            return self.none if value is None else ""
        return self.form.format(value if self.scale is None else self.scale * value)


@dataclass(frozen=True)
class Table:
    """Rows of any type, with the columns to show.

    Attributes:
        columns: from left to right.
        rows: the objects from which columns take their values.
        title: title of the table in the terminal.
        section: a function of a row; where its value changes, a new section starts in LaTeX and the terminal.

    Example:
        >>> print(Table([Column("n", "real"), Column("n²", lambda n: n * n)], [1, 12]).markdown())
        |   n |   n² |
        |----:|-----:|
        |   1 |    1 |
        |  12 |  144 |
    """

    columns: Sequence[Column]
    rows: Sequence[Any]
    title: str = ""
    section: Callable[[Any], Any] | None = None

    def sections(self) -> list[list[list[str]]]:
        """The text of all cells, indexed by section, row and column."""
        groups = groupby(self.rows, self.section or (lambda row: None))
        return [[[column.text(row) for column in self.columns] for row in rows] for _, rows in groups]

    def markdown(self) -> str:
        """As a pipe table."""
        rows = [[text.replace("|", r"\|") for text in row] for section in self.sections() for row in section]
        return self._tabulated("pipe", rows)

    def latex(self) -> str:
        r"""As a ``tabular`` with rules of booktabs, to ``\input`` in a table."""
        rows: list[Any] = []
        for section in self.sections():
            rows += [SEPARATING_LINE, *section] if rows else section
        head, rule, body = self._tabulated("latex_booktabs", rows).partition("\\midrule\n")
        text = head + rule + body.replace(rule, "\\addlinespace\n")
        return text.replace("±", r"$\pm$").replace("–", "--") + "\n"

    def _tabulated(self, form: str, rows: list[Any]) -> str:
        return tabulate(
            rows or [[""] * len(self.columns)],  # without a row, tabulate ignores the alignment
            headers=[column.heading for column in self.columns],
            tablefmt=form,
            colalign=[column.align for column in self.columns],
            disable_numparse=True,
        )

    def print(self, console: Console) -> None:
        """Print it to a rich console."""
        table = rich_table.Table(title=self.title or None)
        for column in self.columns:
            table.add_column(column.heading, justify=column.align, overflow="fold")
        for section in self.sections():
            for row in section:
                table.add_row(*row)
            table.add_section()
        console.print(table)


@dataclass(frozen=True)
class Result(ABC):
    """Base of the frozen dataclasses that measurements return."""

    in_json: ClassVar[tuple[str, ...]] = ()
    """Properties that :meth:`to_json` includes in addition to the fields; dataclasses of rows may have it too."""

    @abstractmethod
    def table(self) -> Table:
        """The result as a table."""

    def summary(self) -> str:
        """A few sentences below the table; empty if there are none."""
        return ""

    def to_json(self) -> dict[str, Any]:
        """As plain values; numbers that are not finite are None, because JSON cannot represent them."""
        return _plain_fields(self)

    def to_markdown(self) -> str:
        """As a Markdown table, with the summary below."""
        return "\n\n".join(filter(None, (self.table().markdown(), self.summary())))

    def print(self, console: Console) -> None:
        """Print table and summary to a rich console."""
        self.table().print(console)
        for line in filter(None, self.summary().splitlines()):
            indent = "  " if line.startswith("- ") else ""
            console.print(indent + line, soft_wrap=True, markup=False, highlight=False)

    def __str__(self) -> str:
        return self.to_markdown()


def plain_values(value: Any) -> Any:
    """Convert results, dataclasses, models and collections of them to JSON values; other values are unchanged.

    Example:
        >>> plain_values({"share": float("inf"), "counts": (1, 2)})
        {'share': None, 'counts': [1, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, BaseModel):
        return plain_values(value.model_dump(mode="json"))
    if is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return value


def _plain_fields(value: Any) -> dict[str, Any]:
    names = (*(field.name for field in fields(value)), *getattr(value, "in_json", ()))
    return {name: plain_values(getattr(value, name)) for name in names}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1) of repetitions; the deviation of one repetition is None.

    Example:
        >>> f"{Spread.of([75.0, 85.0]):.2f}"
        '80.00 ± 7.07'
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of a sequence of numbers; None if the sequence is empty."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __format__(self, form: str) -> str:
        mean = format(self.mean, form)
        return mean if self.deviation is None else f"{mean} ± {format(self.deviation, form)}"
