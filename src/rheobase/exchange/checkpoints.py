"""Trained networks from a user's function and a checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rheobase.core import user_code
from rheobase.core.errors import ModelError
from rheobase.graph.trace.capture import check_finite_weights

_NESTS = ("state_dict", "model_state_dict", "model")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_LISTED = 10


def load(spec: str, checkpoint: str | Path | None = None) -> nn.Module:
    """Build a network by a user's function and load a checkpoint into it, if given.

    The checkpoint is a `.safetensors` file, or a `.pt`, `.pth` or `.bin` file, read without running any code in it
    (`weights_only=True`). It holds a state dict, bare or under the key `state_dict`, `model_state_dict` or `model`.
    The prefix `module.` of DataParallel is removed.

    Args:
        spec: `module:function`, imported with the working directory on `sys.path` and called without arguments; it
            returns an `nn.Module`, which is returned in eval mode.
        checkpoint: file of trained weights; `None` keeps the weights that the function set.

    Raises:
        ModelError: if the function cannot be imported or returns no module; if the file is missing, damaged, of an
            unknown kind, or needs code to be unpickled; if keys or shapes do not fit; or if a weight is not finite.

    Example:
        >>> net = load("my_nets:resnet20", "resnet20.safetensors")  # doctest: +SKIP
    """
    model = user_code.call(spec, ModelError)
    if not isinstance(model, nn.Module):
        reason = f"returned {type(model).__name__}, not a torch.nn.Module"
        raise ModelError.typed(reason, where=spec, remedy="return the network")
    if checkpoint is not None:
        path = Path(checkpoint)
        _fill(model, _state_dict(_read(path), str(path)), str(path))
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
        return load_file(path) if suffix == _SUFFIXES[0] else torch.load(path, map_location="cpu", weights_only=True)
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
            remedy = "if you trust the file, load it with torch and save it with torch.save(model.state_dict(), path)"
        raise ModelError(reason, where=where, remedy=remedy) from cause


def _state_dict(content: Any, where: str) -> dict[str, Any]:
    """Find the state dict in the content of a checkpoint."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), content)
    if isinstance(content, Mapping) and content and all(map(_is_entry, content.items())):
        return dict(content)
    found = f"the keys {_some(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
    reason = f"holds no state dict, but {found if content != {} else 'an empty dict'}"
    remedy = f"save model.state_dict() itself, or under one of the keys {', '.join(_NESTS)}"
    raise ModelError(reason, where=where, remedy=remedy)


def _is_entry(item: tuple[Any, Any]) -> bool:
    key, value = item
    return isinstance(key, str) and (isinstance(value, Tensor) or key.endswith("_extra_state"))


def _fill(model: nn.Module, state: dict[str, Any], where: str) -> None:
    """Load the state dict strictly; the error names the keys that do not fit."""
    own = model.state_dict()
    if _all_prefixed(state) and not _all_prefixed(own):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    # Checkpoints from before torch 0.4.1 lack this counter, and torch accepts them too.
    state.update({key: own[key] for key in own.keys() - state.keys() if key.endswith(".num_batches_tracked")})
    shapes = {key: (_shape(state[key]), _shape(own[key])) for key in own if key in state}
    problems = {
        "missing keys": [key for key in own if key not in state],
        "unexpected keys": [key for key in state if key not in own],
        "wrongly shaped": [f"{key} (file {a}, network {b})" for key, (a, b) in shapes.items() if a != b],
    }
    if text := "; ".join(f"{name}: {_some(keys)}" for name, keys in problems.items() if keys):
        remedy = "give the function of the network that the checkpoint was saved from, or another checkpoint"
        raise ModelError(f"does not fit the network ({text})", where=where, remedy=remedy)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as cause:
        remedy = "check the loading code of the network"
        raise ModelError(f"is refused by the network ({cause})", where=where, remedy=remedy) from cause


def _all_prefixed(state: Mapping[str, Any]) -> bool:
    return bool(state) and all(key.startswith("module.") for key in state)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _some(keys: Iterable[str]) -> str:
    """Join at most ten keys, followed by the number of the others."""
    listed = list(keys)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
