"""Versions of the software that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch


def versions() -> dict[str, str]:
    """Versions of Rheobase, PyTorch, NumPy and Python."""
    return {
        "rheobase": version("rheobase"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
    }
