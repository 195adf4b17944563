"""YAML as people write it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rheobase.core.errors import RecipeError, TrainingError
from rheobase.core.yaml_text import parse_yaml, read_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@given(VALUES)
def test_what_was_written_is_read(value: object) -> None:
    assert parse_yaml(yaml.safe_dump(value), "here") == value


def test_merged_names_do_not_count_as_given_twice() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", "here")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "'a' is given twice line 2, column 1"),
        ("a: {b: 1, c: 2, b: 3}\n", "'b' is given twice"),
        ("1: x\ntrue: y\n", "True is given twice"),  # equal for Python, so that one would be lost
        ("a: [1\n", "is not YAML"),
        ("? [1]\n: 2\n", "is not YAML"),
        ("d: 2026-13-45\n", "is not YAML"),
        ("!!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("a: &a {b: *a}\n", "is not YAML"),
        ("[" * 3000, "is not YAML"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"^here: .*({said})"):
        parse_yaml(text, "here")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml", TrainingError)
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(RecipeError, match="is not a text file"):
        read_yaml(tmp_path / "picture.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
