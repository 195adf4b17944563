"""Why a torch call is refused, and what to do instead."""

from __future__ import annotations

from rheobase.graph.trace.call import Refused

NO_SPIKING = "has no spiking counterpart"
_SMOOTH = (*("silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "hardswish", "leaky_relu", "prelu", "tanh"),)
_GATES = (
    *("sigmoid", "hardsigmoid", "softmax", "_softmax", "log_softmax", "_log_softmax", "scaled_dot_product_attention"),
)


def unknown_call(name: str) -> Refused:
    """The refusal of a call that no operation is traced from."""
    base = name.removesuffix("_backward").rstrip("_")
    if base in _SMOOTH:
        return Refused(f"the activation {NO_SPIKING}", "fine-tune the network with ReLU in its place")
    if base in _GATES:
        return Refused(
            f"{NO_SPIKING}: its output multiplies or normalises other activations",
            "train the network without it",
        )
    if "layer_norm" in base or "group_norm" in base or "instance_norm" in base:
        return Refused(
            "layer_norm and its kin normalise by statistics of the input itself, which is not linear",
            "train the network with batch normalisation",
        )
    if base in ("_native_batch_norm_legit", "native_batch_norm", "batch_norm"):
        return Refused(
            "batch normalisation without running statistics depends on the batch",
            "train it with track_running_stats=True",
        )
    return Refused(
        f"is not an operation the converter knows to be linear ({NO_SPIKING})",
        "rewrite it with supported operations, or register one for it (rb.register)",
    )
