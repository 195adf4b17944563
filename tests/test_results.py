"""The base of results: tables from a declaration of columns, plain values from the fields."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pytest
from rich.console import Console

from rheobase.core.results import Column, Result, Spread, Table, plain_values
from tables import unpadded


@dataclass(frozen=True)
class Line:
    name: str
    share: float | None

    in_json = ("double",)

    @property
    def double(self) -> float | None:
        return self.share and 2 * self.share


@dataclass(frozen=True)
class Found(Result):
    rows: tuple[Line, ...]
    worst: float

    in_json = ("count",)

    @property
    def count(self) -> int:
        return len(self.rows)

    def table(self) -> Table:
        columns = (
            Column("name", "name", align="left"),
            Column("share", "share", "{:.1f} %", scale=100),
            Column("n", "count", none=""),
        )
        return Table(columns, (*self.rows, self), "Shares", section=lambda row: row is self)

    def summary(self) -> str:
        return "Two lines.\n\n- one [b]bold[/b]"


FOUND = Found((Line("a|b_%", 0.125), Line("c", None)), float("inf"))


def test_markdown() -> None:
    expected = "| name | share | n |\n|:-|-:|-:|\n| a\\|b_% | 12.5 % | |\n| c | - | |\n| | | 2 |"
    assert unpadded(FOUND.to_markdown()) == f"{expected}\n\nTwo lines.\n\n- one [b]bold[/b]"
    assert str(FOUND) == FOUND.to_markdown()


def test_latex_escapes_names_and_sets_sections_apart() -> None:
    lines = unpadded(FOUND.table().latex()).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    rows = [line.strip() for line in lines[4:8]]
    assert rows == [r"a|b\_\% & 12.5 \% & \\", r"c & - & \\", r"\addlinespace", r"& & 2 \\"]
    spread = Table([Column("x", lambda row: row, "{:.1f}")], [Spread(1.0, 0.5)])
    assert r"1.0 $\pm$ 0.5" in spread.latex()
    odd = Table([Column("x", lambda row: row)], [r"a\b~c^d{e}"]).latex()
    assert r"a\textbackslash{}b\textasciitilde{}c\^{}d\{e\}" in odd


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_a_table_without_rows_keeps_its_columns(form: str) -> None:
    text = getattr(Table([Column("a", "a", align="left"), Column("b", "b")], []), form)()
    assert "{lr}" in text if form == "latex" else "|:-|-:|" in unpadded(text)


def test_terminal() -> None:
    console = Console(file=io.StringIO(), width=60, markup=False)
    FOUND.print(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Shares" in text
    assert "12.5 %" in text
    assert text.endswith("Two lines.\n  - one [b]bold[/b]\n")


def test_plain_values() -> None:
    expected = {
        "rows": [{"name": "a|b_%", "share": 0.125, "double": 0.25}, {"name": "c", "share": None, "double": None}]
    }
    assert FOUND.to_json() == {**expected, "worst": None, "count": 2}
    assert json.loads(json.dumps(plain_values({"found": FOUND, "nan": float("nan")}), allow_nan=False))["nan"] is None


def test_spread() -> None:
    assert Spread.of([]) is None
    assert f"{Spread.of([3.0]):.1f}" == "3.0"
    spread = Spread.of([75.0, 85.0])
    assert spread is not None
    assert (spread.mean, spread.deviation) == (80.0, pytest.approx(50**0.5))
