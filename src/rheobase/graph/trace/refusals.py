"""Reasons and remedies for calls that cannot become nodes of a graph."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rheobase.core.errors import first_line
from rheobase.graph.trace.call import Call, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

NO_SPIKING = "has no spiking counterpart"
RELU = "replace it by ReLU and fine-tune the network"
_SMOOTH = (
    *("silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "hardswish", "tanh", "softsign", "erf"),
    *("logsigmoid", "log_sigmoid", "log_sigmoid_forward", "hardshrink", "softshrink", "exp", "log", "sqrt", "rsqrt"),
)
_GATES = ("sigmoid", "softmax", "log_softmax", "scaled_dot_product_attention", "glu")
_ROUNDING = ("round", "floor", "ceil", "trunc", "fix", "frac", "sign", "sgn", "floor_divide", "remainder", "fmod")
_LARGEST = ("max", "amax", "min", "amin", "topk", "sort", "argmax", "argmin", "maximum", "minimum", "fmax", "fmin")
_STATISTICS = ("std", "var", "std_mean", "var_mean", "linalg_vector_norm", "norm", "median", "quantile", "logsumexp")


def unknown_call(call: Call) -> Refused:
    """The refusal of a call that no operation or activation is traced from."""
    base = call.name.removesuffix("_backward").strip("_")
    if base in _SMOOTH:
        return Refused(f"the activation {NO_SPIKING}", RELU)
    if base in _GATES:
        text = f"{NO_SPIKING}: its output multiplies or normalises other activations"
        return Refused(text, "train the network without it")
    if base in _ROUNDING or base.startswith("fake_quantize") or base.startswith("fused_moving_avg"):
        return whole_numbers_refused()
    if base in _LARGEST:
        text = "picks the largest or smallest of several activations, which is not linear"
        return Refused(text, "use nn.MaxPool2d with max_pool=..., or a mean")
    if base in _STATISTICS:
        text = "normalises by statistics of its input, or picks by them, which is not linear"
        return Refused(text, "train the network with batch normalisation")
    if base in ("pow", "square"):
        return Refused("multiplies an activation by itself, which is not linear", RELU)
    if any(kind in base for kind in ("layer_norm", "group_norm", "instance_norm")):
        text = "layer, group and instance normalisation use statistics of their input, which is not linear"
        return Refused(text, "train the network with batch normalisation")
    if base in ("native_batch_norm_legit", "native_batch_norm", "batch_norm"):
        text = "batch normalisation without running statistics depends on the batch"
        return Refused(text, "train the network with track_running_stats=True")
    if base.startswith("max_unpool"):
        text = "places values where the largest ones were, which depends on the data"
        return Refused(text, "use nn.Upsample or nn.ConvTranspose2d, and fine-tune the network")
    text = f"is not a supported linear operation ({NO_SPIKING})"
    return Refused(text, "rewrite it with supported operations, or register an operation for it (rb.register)")


def broken_refused(error: Exception) -> Refused:
    """The refusal of a call with arguments for which an operation has no rule."""
    reason = first_line(error)
    return Refused(f"cannot be traced with these arguments ({reason})", "rewrite it, or report the error")


def random_refused() -> Refused:
    """The refusal of a call that draws random numbers outside training."""
    text = "draws random numbers although the network is in eval mode (dropout or noise that is always on)"
    return Refused(text, "switch it off outside training, as in F.dropout(x, p, training=self.training)")


def whole_numbers_refused() -> Refused:
    """The refusal of a call that rounds, which only a quantiser of this library may do."""
    text = "rounds activations; a quantiser written by hand is not recognised"
    remedy = "put rb.QCFS(levels=...) with its trained threshold in its place, or register the activation (rb.register)"
    return Refused(text, remedy)


def leaky_refused() -> Refused:
    """The refusal of an activation with a slope on either side of zero."""
    text = "is a leaky or parametric ReLU (or an absolute value), which emits negative values too"
    exact = "relu(x) - a * relu(-x)"
    remedy = f'use nonlinear="neurons", which converts it exactly as {exact}, with two layers of neurons, or {RELU}'
    return Refused(text, remedy)


def product_refused(builder: Builder, left: str, right: str) -> Refused:
    """The refusal of the product of two activations, by the name under which the reader knows it."""
    nodes = builder.written

    def before(name: str) -> list[str]:
        """The node and those that it is computed from, through operations on single values."""
        found = [name]
        while nodes[found[-1]].operation in ("affine", "site", "reshape", "select"):
            found.append(nodes[found[-1]].inputs[0])
        return found

    if any(nodes[name].operation == "refused" for name in (*before(left), *before(right))):
        return Refused("", "")  # a factor is refused already
    for factor, other in ((left, right), (right, left)):
        path = before(factor)
        between = path[: path.index(other)] if other in path else []
        pointwise = all(nodes[name].operation in ("affine", "site") for name in between)
        if pointwise and any(nodes[name].operation == "site" for name in between):
            return Refused("is a hard-swish, x * relu6(x + 3) / 6, written by hand: it is not linear", RELU)
    paths = [nodes[name] for name in (*before(left), *before(right))]
    bounded = any(node.attributes.get("upper") for node in paths)
    selected = [node for node in paths if node.operation == "select"]
    repeated = any(prod(node.shape) > prod(nodes[node.inputs[0]].shape) for node in selected)
    if builder.shapes[left] != builder.shapes[right] or bounded or repeated:
        text = "is a gate: it multiplies activations by a factor that is computed from activations, which is not linear"
        return Refused(text, "train the network without the gate")
    return Refused("multiplies two activations, which is not linear", "train the network without the product")
