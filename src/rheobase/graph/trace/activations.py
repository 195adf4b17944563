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


def _site(builder: Builder, call: Call, upper: float | None) -> str:
    x, attributes = call.input("self"), {"activation": "relu", "upper": upper}
    return builder.add("site", (x,), call.shape, label=call.name, modules=MODULES, attributes=attributes)


def _relu(builder: Builder, call: Call) -> str:
    return _site(builder, call, 6.0 if call.name == "relu6" else None)


def _clamp(builder: Builder, call: Call) -> str:
    lower, upper = (call["min_val"], call["max_val"]) if call.name == "hardtanh" else (call["min"], call.get("max"))
    scalars = all(v is None or isinstance(v, (int, float)) for v in (lower, upper))
    if not scalars or lower != 0 or (upper is not None and not upper > 0):
        raise Refused(
            f"clips to [{lower}, {upper}]; neurons need a lower bound of 0 and a positive upper bound",
            "replace it by ReLU or clamp(0, a) and fine-tune the network",
        )
    return _site(builder, call, None if upper is None else float(upper))


def _staircase(builder: Builder, call: Call) -> str:
    threshold = call["threshold"]
    if not isinstance(threshold, Fixed):
        raise Refused("has a threshold that depends on the input", "use a trained threshold")
    if not bool((threshold.value > 0).all()):
        raise Refused(
            "has a trained threshold that is not positive", "load a checkpoint from before the threshold crossed zero"
        )
    attributes = {"activation": "staircase", "levels": call["levels"], "rounding": call["rounding"]}
    return builder.add(
        "site",
        (call.input("z"),),
        call.shape,
        label="staircase",
        modules=MODULES,
        attributes=attributes,
        parameters={"threshold": threshold},
    )


def _registered(builder: Builder, call: Call) -> str:
    activation = next(found for found in ACTIVATIONS.values() if call.name in found.traced_from)
    x, attributes, parameters = activation.trace(call)
    attributes = {"activation": activation.kind, **attributes}
    return builder.add("site", (x,), call.shape, label=activation.kind, attributes=attributes, parameters=parameters)


def traced() -> dict[str, Callable[[Builder, Call], str]]:
    """Name of a call -> function that writes its site, for built-in and registered activations."""
    registered = {call: _registered for activation in ACTIVATIONS.values() for call in activation.traced_from}
    return {**TRACED, **registered}


TRACED: dict[str, Callable[[Builder, Call], str]] = {
    **dict.fromkeys(("relu", "relu6"), _relu),
    **dict.fromkeys(("hardtanh", "clamp", "clamp_min"), _clamp),
    "rheobase::staircase": _staircase,
}
"""The same for built-in activations: calls of torch and of this library."""
