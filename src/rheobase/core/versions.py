"""What a result depends on beside the code that asked for it."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    return {
        "rheobase": version("rheobase"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
    }
