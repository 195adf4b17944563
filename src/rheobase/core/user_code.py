"""Call a user's function named as `module:function(name=value)`, with the working directory importable."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rheobase.core.errors import RheobaseError

_SPEC = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)(\(.*\))?", re.DOTALL)


def names_function(spec: str) -> bool:
    """True if `spec` has the form `module:function` or `module:function(...)`."""
    return _SPEC.fullmatch(spec) is not None


def call(
    spec: str, error: type[RheobaseError], options: Mapping[str, Any] | None = None, *, how: str | None = None
) -> Any:
    """Import `module:function` with the working directory on `sys.path` and call it.

    Args:
        spec: `module:function`, or with arguments `module:function(name=value, ...)`, whose values are literals of
            Python. They are read, never run.
        error: class of the errors.
        options: further arguments by name; default: none.
        how: another way in which the user gives arguments, for the remedy.

    Raises:
        RheobaseError: of class `error`, if the spec is malformed, the module cannot be imported, the function is
            missing, it does not take the arguments, or the call fails.

    Example:
        >>> call("collections:Counter(a=2)", RheobaseError, {"b": 1})
        Counter({'a': 2, 'b': 1})
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise error("is not of the form module:function", where=spec, remedy="write it as my_module:my_function")
    module_name, name, written = match.groups()
    given = _arguments(spec, written, error)
    for key in given.keys() & (options or {}).keys():
        raise error(f"has the argument {key!r}, which is also given by {how}", where=spec, remedy="give it once")
    given |= options or {}
    with _imported(module_name, spec, error) as module:
        function = getattr(module, name, None)
        if not callable(function):
            has = f"has no function {name!r}" if function is None else f"has {name!r}, which is not callable"
            remedy = f"define {name}() at the top level of {module.__file__ or module_name}"
            raise error(f"module {module_name!r} {has}", where=spec, remedy=remedy)
        form = f"{module_name}:{name}(name=value)" + (f", or by {how}" if how else "")
        _check_arguments(function, given, spec, form, error)
        try:
            return function(**given)
        except Exception as cause:
            with_these = f"with {', '.join(f'{key}={value!r}' for key, value in given.items())}" if given else ""
            reason = f"the call {with_these or 'without arguments'} failed ({type(cause).__name__}: {cause})"
            remedy = f"make the function work when called without arguments, or give its arguments as {form}"
            if given:
                remedy = f"correct the function, or the arguments given as {form}"
            raise error(reason, where=spec, remedy=remedy) from cause


def _arguments(spec: str, written: str | None, error: type[RheobaseError]) -> dict[str, Any]:
    """The arguments of `(name=value, ...)` by name; values are literals."""
    if written is None:
        return {}
    try:
        found = ast.parse(f"f{written}", mode="eval").body
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and not found.args:
            given = {part.arg: ast.literal_eval(part.value) for part in found.keywords if part.arg}
            if len(given) == len(found.keywords):
                return given
        reason = "has arguments that are not names with values, each once"
    except (SyntaxError, ValueError):
        reason = "has arguments that are not literal values"
    remedy = "write them as module:function(name=value, ...); values are numbers, True, None, lists or quoted texts"
    raise error(reason, where=spec, remedy=remedy)


def _check_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], spec: str, form: str, error: type[RheobaseError]
) -> None:
    """Refuse arguments that the function does not have, and arguments that it needs and are not given."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some functions in C
        return
    try:
        signature.bind(**given)
    except TypeError as cause:
        listed = ", ".join(str(part.replace(annotation=part.empty)) for part in signature.parameters.values())
        reason = f"{cause}; its arguments are ({listed})"
        raise error(reason, where=spec, remedy=f"give its arguments as {form}") from None


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
