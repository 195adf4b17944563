"""Trained networks from a user's function and a checkpoint file."""

from __future__ import annotations

import re
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rheobase.core import user_code
from rheobase.core.errors import ModelError, RheobaseWarning
from rheobase.core.folders import user_path
from rheobase.graph.trace.capture import check_finite_weights

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params")
"""Keys of a state dict within a checkpoint; the first that is found is read."""
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".th")
_WRAPPERS = ("module.", "model.", "net.", "network.")
"""Prefixes next to which a checkpoint may have entries of other modules, such as a loss."""
_LISTED = 10


def _numpy_globals() -> list[Any]:
    """The functions that rebuild NumPy's numbers and arrays; they run no code of the file.

    Training scripts store a best accuracy or a random state in this form. Arrays of objects stay refused.
    """
    scalar, array = (value.__reduce__()[0] for value in (np.float64(0), np.zeros(0)))
    rooms = ("numpy.core.multiarray", "numpy._core.multiarray")  # NumPy 1 and 2
    named = [(f, f"{room}.{name}") for room in rooms for f, name in ((scalar, "scalar"), (array, "_reconstruct"))]
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "SU"
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in codes}]


_PATHS = [
    (kind, f"{module}.{name}")
    for module in ("pathlib", "pathlib._local")  # before Python 3.13, and since
    for name, kind in (("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath))
]
_SAFE = [*_numpy_globals(), *_PATHS, Namespace]
"""What a checkpoint may contain in addition to what torch allows: numbers, arrays, paths, arguments of a script."""


def load(spec: str, checkpoint: str | Path | None = None, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network by a user's function and load a checkpoint into it, if given.

    The checkpoint is a `.safetensors` file, or a file of `torch.save` (`.pt`, `.pth`, `.pth.tar`, `.bin`, `.ckpt`,
    `.th`), read without running any code in it (`weights_only=True`). It holds a state dict, bare or under a key such
    as `state_dict`, `model_state_dict`, `model_state`, `model` or `net`; under another key, if only one state dict
    fits the network. Prefixes that wrappers add to all keys, such as `module.` (DataParallel), `_orig_mod.`
    (`torch.compile`) and `model.` (Lightning), are removed or added as the network requires.

    Args:
        spec: `module:function` or `module:function(name=value)`, imported with the working directory on `sys.path`; it
            returns an `nn.Module`, which is returned in eval mode.
        checkpoint: file of trained weights; `None` keeps the weights that the function set.
        options: arguments of the function by name.

    Raises:
        ModelError: if the function cannot be imported, does not accept the options or returns no module; if the file
            is missing, damaged, of an unknown kind, or needs code to be unpickled; if keys or shapes do not fit; or if
            a weight is not finite.

    Warns:
        RheobaseWarning: if the checkpoint holds other tensors next to those of the network, such as a loss's.

    Example:
        >>> net = load("my_nets:resnet", "resnet.ckpt", {"depth": 20})  # doctest: +SKIP
    """
    how = "--model-option name=value (in Python: options={...})"
    model = user_code.call(spec, ModelError, options, how=how)
    if not isinstance(model, nn.Module):
        reason = f"returned {type(model).__name__}, not a torch.nn.Module"
        raise ModelError.typed(reason, where=spec, remedy="return the network")
    if checkpoint is not None:
        path = user_path(checkpoint)
        _fill(model, _state_dict(_read(path), model, str(path)), str(path))
    check_finite_weights(model, spec if checkpoint is None else str(checkpoint))
    return model.eval()


def _read(path: Path) -> Any:
    """Read the file; every failure becomes a ModelError."""
    suffix, where = path.suffix.lower(), str(path)
    if suffix not in _SUFFIXES:
        remedy = f"give a {', '.join(_SUFFIXES)} file"
        raise ModelError(f"has the unknown suffix {suffix!r}", where=where, remedy=remedy)
    if not path.is_file():
        raise ModelError("is not a file", where=where, remedy="check the path of the checkpoint")
    try:
        with torch.serialization.safe_globals(_SAFE):
            return (
                load_file(path) if suffix == _SUFFIXES[0] else torch.load(path, map_location="cpu", weights_only=True)
            )
    except PermissionError as cause:
        raise ModelError("cannot be read (permission denied)", where=where, remedy="check its permissions") from cause
    except Exception as cause:  # torch's unpickler raises almost any exception on a damaged file
        reason = f"is damaged, truncated or not a checkpoint ({type(cause).__name__}: {cause}".splitlines()[0] + ")"
        remedy = "copy or save the checkpoint again"
        if isinstance(cause, UnpicklingError) or "TorchScript" in str(cause):
            # the part of torch's long message that names the refused object
            found = re.search(r"unsupported (?:global: )?\w+ \S+", str(cause), re.IGNORECASE)
            reason = "is refused, because it is damaged or holds objects other than tensors, which can run code"
            reason += f" ({found[0]})" if found else ""
            remedy = (
                "if you trust the file, load it with torch.load(path, weights_only=False), and save "
                "model.state_dict() with torch.save"
            )
        raise ModelError(reason, where=where, remedy=remedy) from cause


def _state_dict(content: Any, model: nn.Module, where: str) -> dict[str, Any]:
    """Find the state dict of the network in the content of a checkpoint."""
    found = dict(_state_dicts(content))
    if not found:
        listed = f"the keys {_some(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        reason = f"holds no state dict, but {listed if content != {} else 'an empty dict'}"
        remedy = f"save model.state_dict() itself, or under one of the keys {', '.join(_NESTS)}"
        raise ModelError(reason, where=where, remedy=remedy)
    named = [name for key in _NESTS for name in found if name.split(".")[-1] == key]
    if named or len(found) == 1:
        return found[[*named, *found][0]]
    own = model.state_dict()
    fitting = [name for name, state in found.items() if not _problems(_renamed(state, own), own)]
    if len(fitting) != 1:
        reason = f"holds the state dicts {_some(found)}, of which {_some(fitting) or 'none'} fit the network"
        remedy = "save the state dict of the network in a file of its own"
        raise ModelError(reason, where=where, remedy=remedy)
    return found[fitting[0]]


def _state_dicts(content: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All state dicts in nested dictionaries, by the keys that lead to them."""
    if isinstance(content, Mapping) and content:
        if all(map(_is_entry, content.items())):
            yield name, dict(content)
            return
        for key, value in content.items():
            yield from _state_dicts(value, f"{name}.{key}" if name else str(key))


def _is_entry(item: tuple[Any, Any]) -> bool:
    key, value = item
    return isinstance(key, str) and (isinstance(value, Tensor) or key.endswith("_extra_state"))


def _fill(model: nn.Module, state: dict[str, Any], where: str) -> None:
    """Load the state dict strictly; the error names the keys that do not fit."""
    own = model.state_dict()
    renamed = _renamed(state, own)
    if text := "; ".join(f"{name}: {_some(keys)}" for name, keys in _problems(renamed, own).items()):
        remedy = "give the function, and its arguments, of the network that the checkpoint was saved from"
        # A safetensors file sorts its names.
        if not where.endswith(_SUFFIXES[0]) and _in_order(state) == _in_order(own):
            remedy += (
                "; or, since the file has tensors of the same kinds and shapes in the same order under other names, "
                "and if both networks define their layers in the same order, save it with this network's names: "
                "torch.save(dict(zip(network.state_dict(), state.values())), FILE)"
            )
        raise ModelError(f"does not fit the network ({text})", where=where, remedy=remedy)
    read = set(map(id, renamed.values()))
    others = [key for key, value in state.items() if id(value) not in read]
    if others:
        warnings.warn(
            f"{where}: the entries {_some(others)} belong to other modules than the network and are ignored. "
            "Remedy: check that the network needs none of them.",
            RheobaseWarning,
            stacklevel=3,
        )
    try:
        model.load_state_dict(renamed)
    except (RuntimeError, TypeError, ValueError) as cause:
        remedy = "check the loading code of the network"
        raise ModelError(f"is refused by the network ({cause})", where=where, remedy=remedy) from cause


def _in_order(state: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...] | None]]:
    """Last part of the name, such as "weight", and shape of every entry."""
    return [(key.rpartition(".")[2], _shape(value)) for key, value in state.items()]


def _problems(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, list[str]]:
    """The keys that do not fit, by kind."""
    shapes = {key: (_shape(state[key]), _shape(own[key])) for key in own if key in state}
    problems = {
        "missing keys": [key for key in own if key not in state],
        "unexpected keys": [key for key in state if key not in own],
        "wrongly shaped": [f"{key} (file {a}, network {b})" for key, (a, b) in shapes.items() if a != b],
    }
    problems["of whole or complex numbers, where the network has real ones"] = [
        f"{key} ({state[key].dtype})"
        for key, value in own.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and isinstance(state.get(key), Tensor)
        and not state[key].is_floating_point()
    ]
    return {name: keys for name, keys in problems.items() if keys}


def _renamed(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with the prefixes that the network has, and without those that it does not have.

    Of all possible prefixes, the one with the most keys of the network is chosen, and none if it has as many.
    """
    # torch.compile adds its prefix to every compiled module, at any depth.
    names = {key.replace("_orig_mod.", ""): key for key in own}
    found = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    inner = (prefix + wrapper for prefix in _common(found) for wrapper in ("", *_WRAPPERS))
    possible = [
        {outer + key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
        for prefix in inner
        for outer in _common(names)
    ]
    best = max(possible, key=lambda candidate: len(names.keys() & candidate.keys()))
    renamed = {names.get(key, key): value for key, value in best.items()}
    # Checkpoints from before torch 0.4.1 lack this counter, and torch accepts them too.
    return {**{key: own[key] for key in own if key.endswith(".num_batches_tracked")}, **renamed}


def _common(keys: Iterable[str]) -> Iterator[str]:
    """The prefixes that all keys share, from the empty one."""
    listed, prefix = list(keys), ""
    while all(key.startswith(prefix) for key in listed):
        yield prefix
        head, dot, _ = listed[0].removeprefix(prefix).partition(".") if listed else ("", "", "")
        if not dot:
            return
        prefix += f"{head}."


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _some(keys: Iterable[str]) -> str:
    """Join at most ten keys, followed by the number of the others."""
    listed = list(keys)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
