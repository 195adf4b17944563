"""The optional packages that read and run ONNX files, imported when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rheobase.core.errors import ModelError
from rheobase.core.torchvision import repair_torchvision


def require_onnx(part: str = "") -> Any:
    """Import the optional package ``onnx``, or a module of it such as ``"reference"``.

    Raises:
        ModelError: if the package is not installed.
    """
    return _required("onnx", part)


def require_onnx2torch(part: str = "") -> Any:
    """Import the optional package ``onnx2torch``, or a module of it; it imports torchvision.

    Raises:
        ModelError: if one of the two packages is not installed.
    """
    repair_torchvision()
    return _required("onnx2torch", part)


def onnxruntime() -> Any | None:
    """The package ``onnxruntime``, None if it is not installed."""
    try:
        return import_module("onnxruntime")
    except ImportError:
        return None


def _required(package: str, part: str) -> Any:
    try:
        return import_module(f"{package}.{part}" if part else package)
    except ImportError as cause:
        remedy = "run `pip install 'rheobase[onnx]'`"
        raise ModelError(f"is not installed ({cause})", where=f"package {package}", remedy=remedy) from cause
