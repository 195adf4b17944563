"""An installed torchvision whose compiled operators do not fit the installed torch."""

from __future__ import annotations

import functools
from importlib import import_module

import torch

_OPERATORS = ("nms", "qnms")


def repair_torchvision() -> None:
    """Make torchvision importable, if it is installed; call it before importing a package that uses torchvision.

    torchvision's wheel with CUDA fails on import next to a torch without CUDA, and so do torchmetrics and onnx2torch,
    which import torchvision. Only the declarations of two operators are missing, which Rheobase never calls. Any other
    failure is left to the importing package.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        _declare_operators()
    except ImportError:
        pass


@functools.cache  # the declarations vanish with the object
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
