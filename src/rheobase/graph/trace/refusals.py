"""Reasons and remedies for refused torch calls."""

from __future__ import annotations

from rheobase.graph.trace.call import Refused

NO_SPIKING = "has no spiking counterpart"
_SMOOTH = (*("silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "hardswish", "leaky_relu", "prelu", "tanh"),)
_GATES = (
    *("sigmoid", "hardsigmoid", "softmax", "_softmax", "log_softmax", "_log_softmax", "scaled_dot_product_attention"),
)


def unknown_call(name: str) -> Refused:
    """The refusal of a call that no operation or activation is traced from."""
    base = name.removesuffix("_backward").rstrip("_")
    if base in _SMOOTH:
        return Refused(f"the activation {NO_SPIKING}", "replace it by ReLU and fine-tune the network")
    if base in _GATES:
        return Refused(
            f"{NO_SPIKING}: its output multiplies or normalises other activations",
            "train the network without it",
        )
    if "layer_norm" in base or "group_norm" in base or "instance_norm" in base:
        return Refused(
            "layer, group and instance normalisation use statistics of their input, which is not linear",
            "train the network with batch normalisation",
        )
    if base in ("_native_batch_norm_legit", "native_batch_norm", "batch_norm"):
        return Refused(
            "batch normalisation without running statistics depends on the batch",
            "train the network with track_running_stats=True",
        )
    return Refused(
        f"is not a supported linear operation ({NO_SPIKING})",
        "rewrite it with supported operations, or register an operation for it (rb.register)",
    )
