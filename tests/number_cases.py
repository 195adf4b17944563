"""Nodes on numbers for the tests of operations: operation, shapes, attributes, tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


FUNCTIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("silu", "hardswish", "tanh", "sigmoid", "erf", "exp", "mish", "sin", "square", "floor")},
    "gelu": {"approximate": "tanh"},
    "elu": {"alpha": 0.7, "scale": 1, "input_scale": 1},
    "softplus": {"beta": 2, "threshold": 20},
    "pow": {"exponent": 3},
    "threshold": {"threshold": 0.1, "value": -2.0},
}

NUMBER_CASES: dict[str, tuple[str, list[tuple[int, ...]], dict[str, Any], dict[str, Tensor]]] = {
    **{
        function: ("elementwise", [(3, 4)], {"function": function, "arguments": arguments}, {})
        for function, arguments in FUNCTIONS.items()
    },
    "prelu": ("slopes", [(3, 2, 2)], {}, {**_tensors(negative=(3, 1, 1)), "positive": torch.tensor(1.0)}),
    "choice": ("choice", [(3, 2), (3, 2), (3, 2)], {"above": True, "bound": 0.2}, {}),
    "gate": ("pairwise", [(3, 1, 1), (3, 4, 2)], {"function": "mul"}, {}),
    "larger": ("pairwise", [(5,), (5,)], {"function": "maximum"}, {}),
    "scores": ("product", [(2, 5, 3), (2, 3, 4)], {"equation": "bayz,bazx->bayx"}, {}),
    "attention": ("attention", [(2, 5, 3), (2, 4, 3), (2, 4, 6)], {"scale": 0.5}, _tensors(mask=(5, 4))),
    "grouped attention": ("attention", [(4, 5, 3), (2, 5, 3), (2, 5, 3)], {"scale": 0.5}, {}),
    "softmax": ("softmax", [(3, 4)], {"dim": 2, "log": False}, {}),
    "log_softmax": ("softmax", [(3, 4)], {"dim": 1, "log": True}, {}),
    "layer_norm": (
        "layer_norm",
        [(4, 6)],
        {"axes": 1, "eps": 1e-5, "centred": True},
        _tensors(weight=(6,), bias=(6,)),
    ),
    "rms_norm": ("layer_norm", [(4, 6)], {"axes": 2, "eps": 1e-5, "centred": False}, {}),
    "group_norm": ("group_norm", [(6, 3, 3)], {"groups": 2, "eps": 1e-5}, _tensors(weight=(6,), bias=(6,))),
    "largest": ("reduction", [(3, 4, 2)], {"function": "amax", "dim": [2, 3], "keepdim": True}, {}),
    "norm": ("reduction", [(3, 4)], {"function": "norm", "dim": [1], "keepdim": False, "order": 2.0}, {}),
    "deviation": ("reduction", [(3, 4)], {"function": "std", "dim": [2], "keepdim": False, "correction": 1.0}, {}),
    "logsumexp": ("reduction", [(3, 4)], {"function": "logsumexp", "dim": [1], "keepdim": False}, {}),
}
