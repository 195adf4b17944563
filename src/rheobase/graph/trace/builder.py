"""ATen calls -> the closed set of operations; whatever is not in the table is refused by name.

:class:`Builder` walks the graph that ``torch.export`` recorded; one handler for each ATen operation, by the name
without its overload, writes the node.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheobase.core.errors import TraceError
from rheobase.graph.node import Node
from rheobase.graph.trace.notes import Note

TRACE_BATCH = 2
"""Images in the traced batch: every value computed from the input must keep an axis of this size in front."""
NO_SPIKING = "has no spiking counterpart"


@dataclass
class _Constant:
    """A tensor that does not depend on the input; ``name`` if it is a parameter or buffer of the network."""

    value: Any
    name: str | None = None


class _Refused(Exception):
    def __init__(self, text: str, remedy: str) -> None:
        self.text, self.remedy = text, remedy


class Builder:
    """Walks the fx graph and writes nodes. One handler an ATen operation, by the name without its overload."""

    def __init__(self) -> None:
        self.refused_modules: frozenset[str] = frozenset()
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.rewrites: list[Note] = []
        self.refusals: list[Note] = []
        self.reached: set[str] = set()
        self.current: fx.Node | None = None

    # -- names ---------------------------------------------------------------------------------------------------

    def place(self) -> tuple[str, str]:
        """Module path and class name of the call at hand."""
        stack = list((self.current.meta.get("nn_module_stack") or {}).values()) if self.current else []
        if not stack:
            return "", ""
        path, kind = stack[-1][0], stack[-1][1]
        kind = kind if isinstance(kind, str) else kind.__name__
        return str(path).split("@")[0], kind.rsplit(".", 1)[-1]

    def unique(self, name: str) -> str:
        """The name, with ``:2``, ``:3``, ... behind it if it is taken."""
        candidate, n = name, 1
        while candidate in self.shapes:
            n += 1
            candidate = f"{name}:{n}"
        return candidate

    def add(
        self,
        operation: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        label: str | None = None,
        attributes: dict[str, Any] | None = None,
        parameters: dict[str, _Constant | None] | None = None,
    ) -> str:
        """Write a node and return its name."""
        path, kind = self.place()
        # A leaf module's single operation carries the module's own name; anything else is named within it.
        own = label is None and bool(path) and kind in _LEAF_KINDS
        name = self.unique(path if own else ".".join(filter(None, (path, label or operation))))
        held = {
            argument: self.keep(constant, f"{name}.{argument}")
            for argument, constant in (parameters or {}).items()
            if constant is not None
        }
        origin = f"{path or 'the network'} ({kind})" if kind else name
        self.nodes.append(Node(name, operation, inputs, attributes or {}, held, shape, origin))
        self.shapes[name] = shape
        return name

    def keep(self, constant: _Constant, fallback: str) -> str:
        """Hold a tensor under the name it has in the user's network, else under ``fallback``."""
        name = constant.name or fallback
        self.tensors[name] = constant.value.detach().clone()
        return name

    # -- the walk ------------------------------------------------------------------------------------------------

    def build(self, program: torch.export.ExportedProgram) -> str:
        """Walk the program and return the name of the output node."""
        values = dict(self.placeholders(program))
        for node in program.graph.nodes:
            if node.op == "call_function":
                self.current = node
                self.reached.update(str(path).split("@")[0] for path, _ in self.stack(node))
                values[node] = self.call(node, values)
            elif node.op == "output":
                (outputs,) = node.args
                (result,) = outputs
                return self.output(values[result])
        raise AssertionError("torch.export gave a graph without an output")

    @staticmethod
    def stack(node: fx.Node) -> list[tuple[str, Any]]:
        """(path, class) of the modules around a call, outermost first."""
        return [(entry[0], entry[1]) for entry in (node.meta.get("nn_module_stack") or {}).values()]

    def placeholders(self, program: torch.export.ExportedProgram) -> Iterator[tuple[fx.Node, Any]]:
        """Parameters and buffers as constants; the one user input as the input node."""
        signature = program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in named:
                name = named[node.name]
                value = program.state_dict.get(name)
                yield node, _Constant(program.constants[name] if value is None else value, name)
            elif node.name in lifted:
                yield node, _Constant(program.constants[lifted[node.name]])
            else:
                yield node, self.add("input", (), tuple(node.meta["val"].shape[1:]), label="input")

    def call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Value of a call: a node's name, a tuple of them, or a constant computed now."""

        def resolve(x: Any) -> Any:
            return values[x] if isinstance(x, fx.Node) else x

        if node.target is operator.getitem:
            source, index = resolve(node.args[0]), node.args[1]
            if isinstance(source, _Constant):
                return _Constant(source.value[cast(int, index)])
            return source[cast(int, index)] if isinstance(source, tuple) else source
        args = fx.map_arg(node.args, resolve)
        kwargs = fx.map_arg(node.kwargs, resolve)
        if not any(isinstance(leaf, str) for leaf in _leaves_of_nodes(node, values)):
            return self.constant(node, values)
        target = cast(Any, node.target)
        bound = {argument.name: argument.default_value for argument in target._schema.arguments}
        bound.update(zip(bound, args, strict=False))
        bound.update(kwargs)
        operation = target.overloadpacket.__name__
        try:
            handler = _HANDLERS.get(operation)
            if handler is None:
                raise _Refused(*_refusal(operation))
            self.check_batch(node)
            return handler(self, bound, _shape(node))
        except _Refused as refused:
            self.refuse(operation, refused)
            return self.add("refused", _first_input(args), _shape(node), label=operation)

    def constant(self, node: fx.Node, values: dict[fx.Node, Any]) -> _Constant:
        """Compute now what does not depend on the input (a standardised weight, zeros to pad channels with)."""

        def concrete(x: fx.Node) -> Any:
            value = values[x]
            return value.value if isinstance(value, _Constant) else value

        with torch.no_grad():
            return _Constant(
                cast(Any, node.target)(*fx.map_arg(node.args, concrete), **fx.map_arg(node.kwargs, concrete))
            )

    def check_batch(self, node: fx.Node) -> None:
        """Refuse a call whose result has lost the batch axis."""
        value = node.meta["val"]
        outputs = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(v, Tensor) and (v.dim() == 0 or v.shape[0] != TRACE_BATCH) for v in outputs[:1]):
            raise _Refused(
                "moves or mixes the batch axis, which must stay first",
                "keep axis 0 for the batch in every operation",
            )

    def refuse(self, operation: str, refused: _Refused) -> None:
        """Note a refusal once for each module, and go on to find the others."""
        path, kind = self.place()
        if any(path == known or path.startswith(known + ".") for known in self.refused_modules):
            return  # already refused whole
        note = Note(f"{path or 'the network'} ({kind})", f"{operation}: {refused.text}", refused.remedy)
        if note not in self.refusals:
            self.refusals.append(note)

    def output(self, value: Any) -> str:
        """Name of the node the network returns."""
        if isinstance(value, str):
            return value
        raise TraceError(
            "does not depend on the input",
            where="the network's output",
            remedy="return a tensor computed from the input",
        )

    # -- helpers for handlers ------------------------------------------------------------------------------------

    def reshape(self, x: str, shape: tuple[int, ...], label: str = "reshape") -> str:
        """``x`` in another shape; itself where the shape is the same."""
        if self.shapes[x] == shape:
            return x
        return self.add("reshape", (x,), shape, label=label, attributes={"shape": list(shape)})

    def slice(self, x: str, dim: int, start: int, stop: int, step: int = 1) -> str:
        """``x[start:stop:step]`` along ``dim``; itself where that is all of it."""
        old = self.shapes[x]
        if (start, stop, step) == (0, old[dim - 1], 1):
            return x
        size = len(range(start, stop, step))
        shape = (*old[: dim - 1], size, *old[dim:])
        attributes = {"dim": dim, "start": start, "stop": stop, "step": step}
        return self.add("slice", (x,), shape, label="slice", attributes=attributes)

    def affine(self, x: str, shape: tuple[int, ...], scale: Any = None, shift: Any = None) -> str:
        """``x * scale + shift``; scalars become tensors so that a saved network keeps their exact bits."""

        def constant(value: Any) -> _Constant | None:
            if value is None:
                return None
            held = value if isinstance(value, _Constant) else _Constant(value)
            tensor = torch.as_tensor(held.value)
            if tensor.dtype == torch.float64 or not tensor.is_floating_point():
                tensor = tensor.float()
            if tensor.dim() == len(shape) + 1:
                if tensor.shape[0] != 1 and not bool((tensor == tensor[:1]).all()):
                    raise _Refused("uses a constant that differs within the batch", "make it the same for each image")
                tensor = tensor[0]
            return _Constant(tensor, held.name)

        return self.add(
            "affine",
            (x,),
            shape,
            label="affine",
            parameters={"scale": constant(scale), "shift": constant(shift)},
        )


def _leaves_of_nodes(node: fx.Node, values: dict[fx.Node, Any]) -> Iterator[Any]:
    for source in node.all_input_nodes:
        value = values[source]
        yield from value if isinstance(value, tuple) else (value,)


def _first_input(args: Any) -> tuple[str, ...]:
    for arg in args:
        if isinstance(arg, str):
            return (arg,)
        if isinstance(arg, (list, tuple)) and (found := _first_input(arg)):
            return found
    return ()


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    value = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else ()


_SMOOTH = (
    "silu",
    "gelu",
    "elu",
    "selu",
    "celu",
    "mish",
    "softplus",
    "hardswish",
    "leaky_relu",
    "prelu",
    "tanh",
)
_GATES = (
    "sigmoid",
    "hardsigmoid",
    "softmax",
    "_softmax",
    "log_softmax",
    "_log_softmax",
    "scaled_dot_product_attention",
)


def _refusal(operation: str) -> tuple[str, str]:
    base = operation.removesuffix("_backward").rstrip("_")
    if base in _SMOOTH:
        return f"the activation {NO_SPIKING}", "fine-tune the network with ReLU in its place"
    if base in _GATES:
        return (
            f"{NO_SPIKING}: its output multiplies or normalises other activations",
            "train the network without it",
        )
    if "layer_norm" in base or "group_norm" in base or "instance_norm" in base:
        return (
            "layer_norm and its kin normalise by statistics of the input itself, which is not linear",
            "train the network with batch normalisation",
        )
    if base in ("_native_batch_norm_legit", "native_batch_norm", "batch_norm"):
        return (
            "batch normalisation without running statistics depends on the batch",
            "train it with track_running_stats=True",
        )
    return (
        f"is not an operation the converter knows to be linear ({NO_SPIKING})",
        "rewrite it with supported operations",
    )


# -- handlers: (builder, arguments by schema name, output shape) -> node name, or a tuple of them ---------------------

Handler = Callable[[Builder, dict[str, Any], tuple[int, ...]], Any]
_HANDLERS: dict[str, Handler] = {}
_LEAF_KINDS = {
    *(f"{kind}{n}d" for kind in ("Conv", "ConvTranspose", "BatchNorm", "AvgPool", "MaxPool") for n in (1, 2, 3)),
    *(f"AdaptiveAvgPool{n}d" for n in (1, 2, 3)),
    *("Linear", "ReLU", "ReLU6", "Hardtanh", "QCFS", "Staircase", "Flatten", "Upsample", "ZeroPad2d"),
}


def _handles(*operations: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for operation in operations:
            _HANDLERS[operation] = handler
            _HANDLERS[operation + "_"] = handler
        return handler

    return register


def _ints(value: Any, n: int) -> list[int]:
    values = [value] * n if isinstance(value, int) else list(value)
    return [int(v) for v in (values * n if len(values) == 1 else values)]


def _one_tensor(x: Any) -> str:
    if not isinstance(x, str):
        raise _Refused("applies the input to a constant in a way that is not linear", "swap the roles of the two")
    return x


def _weight(x: Any) -> _Constant | None:
    if x is None or isinstance(x, _Constant):
        return x
    raise _Refused("has a weight that depends on the input (a product of activations)", "use a fixed weight")


@_handles("conv1d", "conv2d", "conv3d")
def _conv(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    weight = _weight(a["weight"])
    assert weight is not None
    n = weight.value.dim() - 2
    x, dilation = _one_tensor(a["input"]), _ints(a["dilation"], n)
    padding = a["padding"]
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.value.shape[2:], strict=True)]
        sides = [(t // 2, t - t // 2) for t in totals]
        padding = [left for left, _ in sides]
        if any(left != right for left, right in sides):
            extra = [side for left, right in reversed(sides) for side in (0, right - left)]
            spatial = tuple(s + r - le for s, (le, r) in zip(b.shapes[x][1:], sides, strict=True))
            attributes = {"pad": extra, "mode": "constant", "value": 0.0}
            x = b.add("pad", (x,), (b.shapes[x][0], *spatial), label="pad", attributes=attributes)
    attributes = {
        "stride": _ints(a["stride"], n),
        "padding": _ints(padding, n),
        "dilation": dilation,
        "groups": a["groups"],
    }
    return b.add("conv", (x,), shape, attributes=attributes, parameters={"weight": weight, "bias": _weight(a["bias"])})


@_handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    weight = _weight(a["weight"])
    assert weight is not None
    n = weight.value.dim() - 2
    attributes = {name: _ints(a[name], n) for name in ("stride", "padding", "output_padding", "dilation")}
    attributes["groups"] = a["groups"]
    parameters = {"weight": weight, "bias": _weight(a["bias"])}
    return b.add("conv_transpose", (_one_tensor(a["input"]),), shape, attributes=attributes, parameters=parameters)


@_handles("linear")
def _linear(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    parameters = {"weight": _weight(a["weight"]), "bias": _weight(a["bias"])}
    return b.add("linear", (_one_tensor(a["input"]),), shape, parameters=parameters)


@_handles("matmul", "mm", "addmm")
def _matmul(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    x, matrix = a.get("mat1", a.get("self")), a.get("mat2", a.get("other"))
    if isinstance(x, str) and isinstance(matrix, str):
        raise _Refused("multiplies two activations with one another", "multiply by a fixed matrix")
    weight = _weight(matrix)
    if weight is None or weight.value.dim() != 2:
        raise _Refused("multiplies by a constant that is not a matrix", "use nn.Linear")
    bias = _weight(a["self"]) if "mat1" in a else None
    if "mat1" in a and (a["alpha"] != 1 or a["beta"] != 1):
        raise _Refused("scales a matrix product", "use nn.Linear")
    parameters = {"weight": _Constant(weight.value.T.contiguous()), "bias": bias}
    return b.add("linear", (_one_tensor(x),), shape, label="linear", parameters=parameters)


@_handles("_native_batch_norm_legit_no_training")
def _batch_norm(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    mean, var = a["running_mean"], a["running_var"]
    parameters = {
        "weight": _weight(a["weight"]) or _Constant(torch.ones_like(mean.value)),
        "bias": _weight(a["bias"]) or _Constant(torch.zeros_like(mean.value)),
        "running_mean": mean,
        "running_var": var,
    }
    return b.add("batch_norm", (_one_tensor(a["input"]),), shape, attributes={"eps": a["eps"]}, parameters=parameters)


def _site(b: Builder, x: str, shape: tuple[int, ...], label: str, upper: float | None) -> str:
    path, kind = b.place()
    own = path and kind in _LEAF_KINDS
    return b.add("site", (x,), shape, label=None if own else label, attributes={"upper": upper})


@_handles("relu", "relu6")
def _relu(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    operation = cast(Any, b.current).target.overloadpacket.__name__
    return _site(b, a["self"], shape, operation.rstrip("_"), 6.0 if "6" in operation else None)


@_handles("staircase")
def _staircase(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    threshold = a["threshold"]
    if not isinstance(threshold, _Constant):
        raise _Refused("has a threshold that depends on the input", "use a trained one")
    if not bool((threshold.value > 0).all()):
        raise _Refused("has a trained threshold that is not positive", "load a checkpoint from before it crossed zero")
    path, kind = b.place()
    own = path and kind in _LEAF_KINDS
    attributes = {"upper": None, "levels": a["levels"], "rounding": a["rounding"]}
    return b.add(
        "site",
        (_one_tensor(a["z"]),),
        shape,
        label=None if own else "staircase",
        attributes=attributes,
        parameters={"threshold": threshold},
    )


@_handles("hardtanh", "clamp", "clamp_min")
def _clamp(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    operation = cast(Any, b.current).target.overloadpacket.__name__.rstrip("_")
    lower, upper = (a["min_val"], a["max_val"]) if operation == "hardtanh" else (a["min"], a.get("max"))
    scalars = all(v is None or isinstance(v, (int, float)) for v in (lower, upper))
    if not scalars or lower != 0 or (upper is not None and not upper > 0):
        raise _Refused(
            f"clips to [{lower}, {upper}]; a spiking site needs 0 as lower and a positive upper bound",
            "fine-tune the network with ReLU or clamp(0, a) in its place",
        )
    return _site(b, a["self"], shape, operation, None if upper is None else float(upper))


@_handles("add", "sub", "rsub")
def _add(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    operation = cast(Any, b.current).target.overloadpacket.__name__.rstrip("_")
    left, right, alpha = a["self"], a["other"], a.get("alpha", 1)
    if operation == "rsub":
        left, right = right, left
    sign = -alpha if operation in ("sub", "rsub") else alpha
    if isinstance(left, str) and isinstance(right, str):
        if b.shapes[left] != b.shapes[right]:
            raise _Refused("adds activations of different shapes", "give both the same shape first")
        if sign != 1:
            right = b.affine(right, b.shapes[right], scale=float(sign))
        return b.add("add", (left, right), shape, label="add")
    if isinstance(left, str):
        return b.affine(left, shape, shift=_scaled(right, sign))
    return b.affine(_one_tensor(right), shape, scale=float(sign), shift=left)


def _scaled(constant: Any, factor: float) -> Any:
    if factor == 1:
        return constant
    return _Constant(constant.value * factor) if isinstance(constant, _Constant) else constant * factor


@_handles("mul", "div", "neg")
def _mul(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    operation = cast(Any, b.current).target.overloadpacket.__name__.rstrip("_")
    if operation == "neg":
        return b.affine(a["self"], shape, scale=-1.0)
    x, factor = a["self"], a["other"]
    if isinstance(x, str) and isinstance(factor, str):
        raise _Refused(
            "multiplies two activations with one another, which is not linear",
            "train the network without the gate",
        )
    if operation == "mul":
        x, factor = (x, factor) if isinstance(x, str) else (factor, x)
        return b.affine(x, shape, scale=factor)
    if a.get("rounding_mode"):
        raise _Refused("rounds its quotient", "divide without rounding")
    reciprocal = _Constant(1.0 / factor.value) if isinstance(factor, _Constant) else 1.0 / factor
    return b.affine(_one_tensor(x), shape, scale=reciprocal)


@_handles("cat", "stack")
def _concat(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    stacked = cast(Any, b.current).target.overloadpacket.__name__.startswith("stack")
    dim = a["dim"] % (len(shape) + 1)
    if dim == 0:
        raise _Refused("concatenates along the batch axis", "concatenate along channels or space")
    names = []
    for part in a["tensors"]:
        name = part if isinstance(part, str) else _held_constant(b, part)
        if stacked:
            old = b.shapes[name]
            name = b.reshape(name, (*old[: dim - 1], 1, *old[dim - 1 :]))
        if not any(size == 0 for size in b.shapes[name]):
            names.append(name)
    return b.add("concat", tuple(names), shape, label="concat", attributes={"dim": dim})


def _held_constant(b: Builder, part: _Constant) -> str:
    value = part.value
    if value.shape[0] != 1 and not bool((value == value[:1]).all()):
        raise _Refused("uses a constant that differs within the batch", "make it the same for each image")
    return b.add("constant", (), tuple(value.shape[1:]), label="constant", parameters={"value": _Constant(value[:1])})


def _window(b: Builder, a: dict[str, Any]) -> dict[str, Any]:
    """What average and maximum pooling have in common; the dimension is in the name, ``avg_pool2d``."""
    n = int(cast(Any, b.current).target.overloadpacket.__name__[8])
    kernel = _ints(a["kernel_size"], n)
    stride = _ints(a["stride"], n) if a["stride"] else kernel
    return {"kernel_size": kernel, "stride": stride, "padding": _ints(a["padding"], n), "ceil_mode": a["ceil_mode"]}


@_handles("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    attributes = {
        **_window(b, a),
        "count_include_pad": a["count_include_pad"],
        "divisor_override": a.get("divisor_override"),
    }
    return b.add("avg_pool", (_one_tensor(a.get("self", a.get("input"))),), shape, attributes=attributes)


@_handles(*(f"{p}adaptive_avg_pool{n}d" for p in ("", "_") for n in (1, 2, 3)))
def _adaptive_avg_pool(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    attributes = {"output_size": list(shape[1:])}
    return b.add("adaptive_avg_pool", (_one_tensor(a["self"]),), shape, attributes=attributes)


@_handles("mean", "sum")
def _mean(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    x = a["self"]
    rank = len(b.shapes[x]) + 1
    dims = sorted(d % rank for d in (a.get("dim") or range(rank)))
    if 0 in dims:
        raise _Refused("averages over the batch", "average over channels or space only")
    attributes = {"dim": dims, "keepdim": bool(a.get("keepdim"))}
    name = b.add("mean", (x,), shape, label="mean", attributes=attributes)
    if cast(Any, b.current).target.overloadpacket.__name__ == "sum":
        count = 1
        for d in dims:
            count *= b.shapes[x][d - 1]
        name = b.affine(name, shape, scale=float(count))
    return name


@_handles("view", "_unsafe_view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "view_copy", "ravel")
def _reshape(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    return b.reshape(_one_tensor(a.get("self", a.get("input"))), shape)


@_handles("permute", "transpose", "t", "movedim", "swapaxes")
def _permute(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    x = a["self"]
    rank = len(shape) + 1
    dims = list(range(rank))
    if "dims" in a:
        dims = [d % rank for d in a["dims"]]
    elif "dim0" in a:
        i, j = a["dim0"] % rank, a["dim1"] % rank
        dims[i], dims[j] = dims[j], dims[i]
    else:
        raise _Refused("moves the batch axis", "use permute and keep axis 0 for the batch")
    if dims[0] != 0:
        raise _Refused("moves the batch axis, which must stay first", "keep axis 0 for the batch in every operation")
    return b.add("permute", (x,), shape, label="permute", attributes={"dims": dims})


@_handles("slice", "narrow", "select")
def _slice(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    x = a["self"]
    old = b.shapes[x]
    dim = a["dim"] % (len(old) + 1)
    if dim == 0:
        if shape == old:
            return x
        raise _Refused("picks images out of the batch", "index channels or space only")
    size = old[dim - 1]
    if "index" in a:
        start = a["index"] % size
        return b.reshape(b.slice(x, dim, start, start + 1), shape)
    if "length" in a:
        start = a["start"] % size
        return b.slice(x, dim, start, start + a["length"])
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(size)
    return b.slice(x, dim, start, stop, step)


@_handles("split", "split_with_sizes", "chunk", "unbind")
def _split(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> tuple[str, ...]:
    x = a["self"]
    old = b.shapes[x]
    dim = a["dim"] % (len(old) + 1)
    if dim == 0:
        raise _Refused("splits the batch", "split channels or space only")
    values = cast(Any, b.current).meta["val"]
    parts, start = [], 0
    unbound = values[0].dim() != len(old) + 1
    for value in values:
        stop = start + (1 if unbound else value.shape[dim])
        parts.append(b.reshape(b.slice(x, dim, start, stop), tuple(value.shape[1:])))
        start = stop
    return tuple(parts)


@_handles(
    "pad",
    "constant_pad_nd",
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
)
def _pad(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    operation = cast(Any, b.current).target.overloadpacket.__name__
    mode = a.get("mode", "constant")
    if operation.startswith(("reflection", "replication")):
        mode = "reflect" if operation.startswith("reflection") else "replicate"
    amounts = [int(p) for p in (a["pad"] if "pad" in a else a["padding"])]
    if len(amounts) == 2 * (len(shape) + 1):
        if any(amounts[-2:]):
            raise _Refused("pads the batch axis", "pad channels or space only")
        amounts = amounts[:-2]
    value = float(a.get("value") or 0.0) if mode == "constant" else None
    attributes = {"pad": amounts, "mode": mode, "value": value}
    return b.add("pad", (_one_tensor(a["self"]),), shape, label="pad", attributes=attributes)


_UPSAMPLE = {
    **{f"upsample_nearest{n}d": "nearest" for n in (1, 2, 3)},
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
}


@_handles(*_UPSAMPLE)
def _upsample(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    mode = _UPSAMPLE[cast(Any, b.current).target.overloadpacket.__name__]
    attributes = {"size": list(shape[1:]), "mode": mode, "align_corners": a.get("align_corners")}
    return b.add("upsample", (_one_tensor(a.get("input", a.get("self"))),), shape, attributes=attributes)


@_handles(
    *(
        "clone",
        "alias",
        "detach",
        "contiguous",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "native_dropout",
    ),
    *("lift_fresh_copy", "_to_copy", "to", "expand", "identity", "expand_as"),
)
def _identity(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    x = _one_tensor(a.get("self", a.get("input")))
    if b.shapes[x] != shape:
        raise _Refused("repeats values by broadcasting", "use nn.Upsample or torch.cat")
    path, kind = b.place()
    if "Dropout" in kind:
        b.rewrites.append(Note(f"{path} ({kind})", "removed: it does nothing outside training"))
    return x


@_handles("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(b: Builder, a: dict[str, Any], shape: tuple[int, ...]) -> str:
    window = _window(b, a)
    attributes = {**window, "dilation": _ints(a["dilation"], len(window["kernel_size"]))}
    return b.add("max_pool", (a["self"],), shape, attributes=attributes)
