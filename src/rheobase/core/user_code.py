"""Call a user's function named as `module:function`, with the working directory importable."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from rheobase.core.errors import RheobaseError

_SPEC = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def names_function(spec: str) -> bool:
    """True if `spec` has the form `module:function`."""
    return _SPEC.fullmatch(spec) is not None


def call(spec: str, error: type[RheobaseError]) -> Any:
    """Import `module:function` with the working directory on `sys.path` and call it without arguments.

    Args:
        spec: the function, as `package.module:function`.
        error: the class to raise.

    Raises:
        RheobaseError: of class `error`, if the spec is malformed, the module cannot be imported, the function is
            missing, or the call fails.

    Example:
        >>> call("collections:Counter", RheobaseError)
        Counter()
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise error("is not of the form module:function", where=spec, remedy="write it as my_module:my_function")
    module_name, function_name = match.groups()
    with _working_directory_importable():
        module = _import(module_name, spec, error)
        function = getattr(module, function_name, None)
        if not callable(function):
            problem = "has no function {!r}" if function is None else "has {!r}, which is not callable"
            raise error(
                f"module {module_name!r} {problem.format(function_name)}",
                where=spec,
                remedy=f"define {function_name}() at the top level of {module.__file__ or module_name}",
            )
        try:
            return function()
        except Exception as cause:
            raise error(
                f"the call without arguments failed ({type(cause).__name__}: {cause})",
                where=spec,
                remedy="make the function work when called without arguments",
            ) from cause


def load(module_name: str, error: type[RheobaseError]) -> None:
    """Import a module that registers extensions, with the working directory on `sys.path`.

    Raises:
        RheobaseError: of class `error`, if it cannot be imported.
    """
    with _working_directory_importable():
        _import(module_name, module_name, error)


def _import(module_name: str, where: str, error: type[RheobaseError]) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as cause:
        raise error(
            f"module {module_name!r} cannot be imported ({type(cause).__name__}: {cause})",
            where=where,
            remedy="run in the folder that contains the module, or install the packages that it imports",
        ) from cause


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    folder = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        # the imported module may itself have removed the entry
        if folder in sys.path:
            sys.path.remove(folder)
