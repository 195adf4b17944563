"""Call a user's function named as `module:function`, with the working directory importable."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rheobase.core.errors import RheobaseError

_SPEC = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def names_function(spec: str) -> bool:
    """True if `spec` has the form `module:function`."""
    return _SPEC.fullmatch(spec) is not None


def call(
    spec: str, error: type[RheobaseError], options: Mapping[str, Any] | None = None, *, how: str | None = None
) -> Any:
    """Import `module:function` with the working directory on `sys.path` and call it.

    Args:
        spec: `module:function`.
        error: class of the errors.
        options: arguments by name; default: none.
        how: how the user gives options, for the remedy; None if there is no way.

    Raises:
        RheobaseError: of class `error`, if the spec is malformed, the module cannot be imported, the function is
            missing, or the call fails.

    Example:
        >>> call("collections:Counter", RheobaseError, {"a": 2})
        Counter({'a': 2})
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise error("is not of the form module:function", where=spec, remedy="write it as my_module:my_function")
    module_name, name = match.groups()
    with _imported(module_name, spec, error) as module:
        function = getattr(module, name, None)
        if not callable(function):
            has = f"has no function {name!r}" if function is None else f"has {name!r}, which is not callable"
            remedy = f"define {name}() at the top level of {module.__file__ or module_name}"
            raise error(f"module {module_name!r} {has}", where=spec, remedy=remedy)
        try:
            return function(**(options or {}))
        except Exception as cause:
            given = f"with {', '.join(f'{key}={value!r}' for key, value in options.items())}" if options else ""
            reason = f"the call {given or 'without arguments'} failed ({type(cause).__name__}: {cause})"
            remedy = "make the function work when called without arguments"
            if how is not None:
                remedy = (
                    f"correct the function, or the arguments given by {how}"
                    if options
                    else (f"{remedy}, or give its arguments by {how}")
                )
            raise error(reason, where=spec, remedy=remedy) from cause


def load(module_name: str, error: type[RheobaseError]) -> None:
    """Import a module that registers extensions; an error of class `error` if it cannot be imported."""
    with _imported(module_name, module_name, error):
        pass


@contextmanager
def _imported(module_name: str, where: str, error: type[RheobaseError]) -> Iterator[Any]:
    """Import a module; the working directory is importable within the context."""
    folder = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        try:
            module = importlib.import_module(module_name)
        except Exception as cause:
            reason = f"module {module_name!r} cannot be imported ({type(cause).__name__}: {cause})"
            remedy = "run in the folder that contains the module, or install the packages that it imports"
            raise error(reason, where=where, remedy=remedy) from cause
        yield module
    finally:
        if folder in sys.path:  # the imported module may itself have removed the entry
            sys.path.remove(folder)
