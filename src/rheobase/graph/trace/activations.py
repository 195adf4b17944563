"""Torch calls of activations, each of which becomes a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rheobase.activations import ACTIVATIONS
from rheobase.graph.trace.call import Call, Fixed, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

MODULES = ("ReLU", "ReLU6", "Hardtanh", "QCFS", "Staircase")
"""Module classes whose only node is a site; the site gets the module's name."""


def _relu(builder: Builder, call: Call) -> str:
    """Write the site of a ReLU, clipped or not."""
    lower, upper = 0, 6.0 if call.name == "relu6" else None
    if call.name == "hardtanh":
        lower, upper = call["min_val"], call["max_val"]
    elif call.name in ("clamp", "clamp_min"):
        lower, upper = call["min"], call.get("max")
    scalars = all(v is None or isinstance(v, (int, float)) for v in (lower, upper))
    if not scalars or lower != 0 or (upper is not None and not upper > 0):
        raise Refused(
            f"clips to [{lower}, {upper}]; neurons need a lower bound of 0 and a positive upper bound",
            "replace it by ReLU or clamp(0, a) and fine-tune the network",
        )
    attributes = {"activation": "relu", "upper": None if upper is None else float(upper)}
    x = call.input("self")
    return builder.add("site", (x,), call.shape, label=call.name, modules=MODULES, attributes=attributes)


def _staircase(builder: Builder, call: Call) -> str:
    threshold = call["threshold"]
    if not isinstance(threshold, Fixed):
        raise Refused("has a threshold that depends on the input", "use a trained threshold")
    if not bool((threshold.value > 0).all()):
        remedy = "load a checkpoint from before the threshold crossed zero"
        raise Refused("has a trained threshold that is not positive", remedy)
    return builder.add(
        "site",
        (call.input("z"),),
        call.shape,
        label="staircase",
        modules=MODULES,
        attributes={"activation": "staircase", "levels": call["levels"], "rounding": call["rounding"]},
        parameters={"threshold": threshold},
    )


def _registered(builder: Builder, call: Call) -> str:
    activation = next(found for found in ACTIVATIONS.values() if call.name in found.traced_from)
    x, attributes, parameters = activation.trace(call)
    attributes = {"activation": activation.kind, **attributes}
    return builder.add("site", (x,), call.shape, label=activation.kind, attributes=attributes, parameters=parameters)


TRACED: dict[str, Callable[[Builder, Call], str]] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min"), _relu),
    "rheobase::staircase": _staircase,
}
"""Name of a call of torch or of this library -> function that writes its site."""


def traced() -> dict[str, Callable[[Builder, Call], str]]:
    """The same, with the calls of registered activations."""
    registered = {call: _registered for activation in ACTIVATIONS.values() for call in activation.traced_from}
    return {**TRACED, **registered}
