"""Run the command line within a test, and what a refusal looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from rheobase import cli


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.app([str(arg) for arg in args], prog_name="rheobase")
        code = exit_info.value.code
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return call


def assert_refused(result: Result, *said: str) -> None:
    """One sentence on stderr, nothing on stdout."""
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
    for text in said:
        assert text in result.err, result.err
