"""Prepare a network for tracing: a copy in eval mode without gradients, whose weights are plain tensors."""

from __future__ import annotations

import ast
import copy
import functools
import linecache
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import IOBase
from types import FunctionType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from rheobase.core.errors import ModelError, first_line
from rheobase.graph.trace.call import Note

SHARED = (type(threading.Lock()), type(threading.RLock()), IOBase, ModuleType)


def prepared(model: nn.Module) -> tuple[nn.Module, list[Note]]:
    """A copy of a network for tracing, and notes on weights that were computed once and stored.

    The wrappers of ``torch.compile`` and data parallelism are removed. Tensors that a forward has stored are detached.
    Weight and spectral normalisation, other parametrisations and pruning masks become part of their weights, which
    keep their names.

    Raises:
        ModelError: if the network cannot be copied, or a weight cannot be computed from its parametrisation.
    """
    while (inner := _wrapped(model)) is not None:
        model = inner
    try:
        with torch.no_grad():
            network = copy.deepcopy(model, dict(_not_copied(model)))
    except Exception as error:
        reason = f"cannot be copied: {first_line(error)}"
        remedy = "remove attributes that are neither tensors nor plain values before the conversion"
        raise ModelError(reason, where="the network", remedy=remedy) from error
    network.eval()
    notes = list(_with_plain_weights(network))
    for parameter in network.parameters():
        if parameter.is_leaf:
            parameter.requires_grad_(False)
    return network, notes


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The network within the wrapper of data parallelism or ``torch.compile``; None if it is not wrapped."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, model.module)
    return getattr(model, "_orig_mod", None)


def check_initialised(model: nn.Module) -> None:
    """Raise a ModelError for the first weight without values: of a lazy module, or on the meta device."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            reason = "has no shape yet, because the lazy module that owns it has not run"
            remedy = "call the network on a batch once, then load its trained weights"
        elif tensor.is_meta:
            reason = "is on the meta device and has no values"
            remedy = "build the network on the cpu, or load its weights by model.load_state_dict(state, assign=True)"
        else:
            continue
        raise ModelError(reason, where=f"weight '{name}'", remedy=remedy)


def _not_copied(model: nn.Module) -> Iterator[tuple[int, Any]]:
    """(id, value in the copy) of what deepcopy refuses among the attributes.

    Tensors with a gradient history are detached; locks, files and Python modules are shared.
    """
    seen: set[int] = set()
    pending: list[Any] = [vars(module) for module in model.modules()]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield id(value), value.detach().clone()
        elif isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, SHARED):
            yield id(value), value
        elif isinstance(value, Sequence | set) and not isinstance(value, str | bytes):
            pending += value
        elif hasattr(value, "__dict__") and not isinstance(value, type | FunctionType):
            pending.append(vars(value))


def _with_plain_weights(network: nn.Module) -> Iterator[Note]:
    """Replace every weight that is computed from others by its value."""
    for path, module in list(network.named_modules()):
        where = f"{path or 'the network'} ({_kind(module)})"
        for what, name, fold in list(_computed(module)):
            try:
                fold(module, name)
            except Exception as error:
                reason = f"has {what} of '{name}', which cannot be computed: {first_line(error)}"
                remedy = "remove it before the conversion, keeping the value of the weight"
                raise ModelError(reason, where=where, remedy=remedy) from error
            yield Note(where, f"{what} of '{name}' is part of the weight now")


def _computed(module: nn.Module) -> Iterator[tuple[str, str, Callable[[nn.Module, str], Any]]]:
    """What computes weights of a module: its name, the name of the weight, and the function that stores its value."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield "weight normalisation", hook.name, remove_weight_norm
        elif isinstance(hook, SpectralNorm):
            yield "spectral normalisation", hook.name, remove_spectral_norm
        elif isinstance(hook, prune.BasePruningMethod):
            yield "a pruning mask", hook._tensor_name, prune.remove
    if parametrize.is_parametrized(module):
        yield "a parametrisation", ", ".join(_parametrised(module)), _remove_parametrisations


def _parametrised(module: nn.Module) -> list[str]:
    return list(cast(nn.ModuleDict, module.parametrizations))


def _remove_parametrisations(module: nn.Module, _: str) -> None:
    # torch's own function also changes the class of the module, which the user's network shares
    values = {name: getattr(module, name).detach().clone() for name in _parametrised(module)}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _kind(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Parametrized")


@functools.cache
def _within_assert(file: str, line: int) -> bool:
    """True if a line of a file belongs to an ``assert`` statement."""
    try:
        statements = ast.walk(ast.parse("".join(linecache.getlines(file))))
    except SyntaxError:  # a part of a file
        return False
    return any(isinstance(s, ast.Assert) and s.lineno <= line <= (s.end_lineno or s.lineno) for s in statements)


class IgnoredAsserts(TorchFunctionMode):
    """While active, a tensor that an ``assert`` statement tests counts as true: its values are unknown in a trace.

    The example has passed the same statements before.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._assert:
            return None
        if func is Tensor.__bool__:
            frame = sys._getframe(1)
            if _within_assert(frame.f_code.co_filename, frame.f_lineno):
                return True
        return func(*args, **(kwargs or {}))
