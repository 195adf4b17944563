"""Convert torch calls to nodes of a graph; refuse unknown calls by name.

:class:`Builder` walks the graph that ``torch.export`` recorded. Operations write the nodes of their calls
(:meth:`rheobase.graph.operations.Operation.trace`), and functions of this module write sites.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from itertools import count
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheobase.activations import ACTIVATIONS
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, Call, Fixed, Ref, Refused
from rheobase.graph.operations.outputs import Structure
from rheobase.graph.trace.call import Note

TRACE_BATCH = 2
"""Images in the traced batch; the first axis of every value computed from the input must have this size."""
SITE_MODULES = ("ReLU", "ReLU6", "Hardtanh", "QCFS", "Staircase")
"""Module classes whose only node is a site; the site gets the module's name."""
NO_SPIKING = "has no spiking counterpart"
_SMOOTH = ("silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "hardswish", "leaky_relu", "prelu", "tanh")
_GATES = ("sigmoid", "hardsigmoid", "softmax", "log_softmax", "scaled_dot_product_attention")

Handler = Callable[["Builder", Call], str | tuple[str, ...]]


class Builder:
    """Walks the fx graph and writes nodes.

    Attributes:
        nodes: nodes written so far, in execution order.
        shapes: node -> shape of a sample of its value.
        reached: paths of the modules with a traced call.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {
            **{call: operation.trace for operation in OPERATIONS.values() for call in operation.traced_from},
            **{call: _registered for activation in ACTIVATIONS.values() for call in activation.traced_from},
            **TRACED,
        }
        self.refused_modules: dict[str, Note] = {}
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.rewrites: list[Note] = []
        self.refused: dict[str, Note] = {}
        """Refused nodes: those of refused calls, and all in refused modules."""
        self.functions: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {}
        """Refused node with one input -> name and function of its call."""
        self.reached: set[str] = set()
        self.stack: list[tuple[str, str]] = []
        """(path, class name) of the modules around the present call, outermost first."""

    def place(self) -> tuple[str, str]:
        """Module path and class name of the present call."""
        return self.stack[-1] if self.stack else ("", "")

    def add(
        self,
        operation: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        label: str | None = None,
        modules: Container[str] | None = None,
        attributes: dict[str, Any] | None = None,
        parameters: Mapping[str, Fixed | None] | None = None,
    ) -> str:
        """Write a node and return its name.

        Args:
            operation: name of the operation, or ``site``.
            inputs: names of the nodes that it reads.
            shape: shape of a sample of its value.
            label: its name within the calling module; default: the name of the operation.
            modules: module classes for which the node is the only one, and gets the name of the module. Default: those
                of the operation, or none with a ``label``.
            attributes: argument -> plain value.
            parameters: argument -> tensor; None for an absent tensor.
        """
        path, kind = self.place()
        if modules is None:
            modules = OPERATIONS[operation].modules if label is None else ()
        name = path if path and kind in modules else ".".join(filter(None, (path, label or operation)))
        if name in self.shapes:
            name = next(unique for n in count(2) if (unique := f"{name}:{n}") not in self.shapes)
        tensor_names = {}
        for argument, fixed in (parameters or {}).items():
            if fixed is not None:  # stored under its name in the user's network, if it has one
                tensor_names[argument] = tensor_name = fixed.name or f"{name}.{argument}"
                self.tensors[tensor_name] = fixed.value.detach().clone()
        origin = f"{path or 'the network'} ({kind})" if kind else name
        self.nodes.append(Node(name, operation, tuple(map(str, inputs)), attributes or {}, tensor_names, shape, origin))
        self.shapes[name] = shape
        for module, note in self.refused_modules.items():
            if path == module or path.startswith(f"{module}.") or not module:
                self.refused.setdefault(name, note)
        return name

    def build(self, program: torch.export.ExportedProgram) -> list[str | None]:
        """Walk the program, and return the output node of each returned tensor; None if it is a constant."""
        values = dict(self._placeholders(program))
        for node in program.graph.nodes:
            if node.op == "call_function":
                stack = (node.meta.get("nn_module_stack") or {}).values()
                self.stack = [(str(path).split("@")[0], _class_name(kind)) for path, kind, *_ in stack]
                self.reached.update(path for path, _ in self.stack)
                values[node] = self._call(node, values)
        by_name = {node.name: value for node, value in values.items()}  # without the new values of buffers
        found = [by_name.get(str(name)) for name in program.graph_signature.user_outputs]
        return [value if isinstance(value, str) else None for value in found]

    def join(self, outputs: Mapping[str, str], structure: Structure) -> str:
        """Write the node that joins several outputs, and return its name."""
        self.stack = []
        flat = []
        for name in outputs.values():
            shape = (prod(self.shapes[name]),)
            same = self.shapes[name] == shape
            flat.append(name if same else self.add("reshape", (name,), shape, attributes={"shape": list(shape)}))
        total = (sum(prod(self.shapes[name]) for name in flat),)
        return self.add("outputs", tuple(flat), total, attributes={"structure": json.dumps(structure.tree)})

    def _placeholders(self, program: torch.export.ExportedProgram) -> Iterator[tuple[fx.Node, Any]]:
        """Yield parameters and buffers as constants, and the user input as the input node."""
        signature = program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        for node in program.graph.find_nodes(op="placeholder"):
            if node.name in named:
                name = named[node.name]
                value = program.state_dict.get(name)
                yield node, Fixed(program.constants[name] if value is None else value, name)
            elif node.name in lifted:
                yield node, Fixed(program.constants[lifted[node.name]])
            else:
                yield node, self.add("input", (), tuple(node.meta["val"].shape[1:]), label="input")

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Value of a call: the name of a node, a tuple of names, or a constant."""
        if node.target is operator.getitem:
            source, index = values[cast(fx.Node, node.args[0])], cast(int, node.args[1])
            if isinstance(source, Fixed):
                return Fixed(source.value[index])
            return source[index] if isinstance(source, tuple) else source
        if not any(isinstance(values[source], str | tuple) for source in node.all_input_nodes):
            # it does not depend on the input: a standardised weight, zeros to pad channels with
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: values[source].value)
            with torch.no_grad():
                return Fixed(cast(Any, node.target)(*args, **kwargs))
        call = _recorded(node, values)
        try:
            handler = self.handlers.get(call.name)
            if handler is None:
                raise _unknown_call(call.name)
            first = node.meta["val"]
            first = first[0] if isinstance(first, (tuple, list)) else first
            if isinstance(first, Tensor) and (first.dim() == 0 or first.shape[0] != TRACE_BATCH):
                text = "moves or mixes the batch axis, which must remain axis 0"
                raise Refused(text, "keep axis 0 for the batch in every operation")
            return handler(self, call)
        except Refused as refused:
            label = cast(Any, node.target).overloadpacket.__name__
            inputs = [v for v in map(values.get, node.all_input_nodes) if isinstance(v, str | tuple)]
            first_input = inputs[0] if isinstance(inputs[0], str) else inputs[0][0]
            name = self.add("refused", (first_input,), call.shape, label=label)
            path, kind = self.place()
            note = Note(f"{path or 'the network'} ({kind})", f"{label}: {refused.text}", refused.remedy)
            self.refused.setdefault(name, note)
            if len(node.all_input_nodes) == 1:
                self.functions[name] = call.name, partial(_call_again, node)
            return name


def _call_again(node: fx.Node, x: Tensor) -> Tensor:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: x)
    return cast(Any, node.target)(*args, **kwargs)


def _class_name(kind: Any) -> str:
    return (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]


def _recorded(node: fx.Node, values: dict[fx.Node, Any]) -> Call:
    def resolve(x: fx.Node) -> Any:
        value = values[x]
        if isinstance(value, tuple):
            return tuple(map(Ref, value))
        return Ref(value) if isinstance(value, str) else value

    target = cast(Any, node.target)
    name = target.overloadpacket.__name__
    name = name.rstrip("_") if target.namespace == "aten" else f"{target.namespace}::{name}"
    arguments = {argument.name: argument.default_value for argument in target._schema.arguments}
    arguments.update(zip(arguments, fx.map_arg(node.args, resolve), strict=False))
    arguments.update(fx.map_arg(node.kwargs, resolve))
    value = node.meta["val"]
    outputs = value if isinstance(value, (tuple, list)) else (value,)
    return Call(name, arguments, tuple(tuple(v.shape[1:]) for v in outputs if isinstance(v, Tensor)))


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
    return builder.add("site", (x,), call.shape, label=call.name, modules=SITE_MODULES, attributes=attributes)


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
        modules=SITE_MODULES,
        attributes={"activation": "staircase", "levels": call["levels"], "rounding": call["rounding"]},
        parameters={"threshold": threshold},
    )


def _registered(builder: Builder, call: Call) -> str:
    activation = next(found for found in ACTIVATIONS.values() if call.name in found.traced_from)
    x, attributes, parameters = activation.trace(call)
    attributes = {"activation": activation.kind, **attributes}
    return builder.add("site", (x,), call.shape, label=activation.kind, attributes=attributes, parameters=parameters)


def _pass_through(builder: Builder, call: Call) -> str:
    """Return the input's node for dropout outside training, a copy or a cast; refuse a call that changes the shape."""
    x = call.input("self", "input")
    if builder.shapes[x] != call.shape:
        raise Refused("repeats values by broadcasting", "use nn.Upsample or torch.cat")
    path, kind = builder.place()
    if "Dropout" in kind:
        builder.rewrites.append(Note(f"{path} ({kind})", "removed: it has no effect outside training"))
    return x


TRACED: dict[str, Handler] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min"), _relu),
    "rheobase::staircase": _staircase,
    **dict.fromkeys(("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "_to_copy", "to"), _pass_through),
    **dict.fromkeys(("identity", "expand", "expand_as", "dropout", "feature_dropout"), _pass_through),
    **dict.fromkeys(("alpha_dropout", "native_dropout"), _pass_through),
}
"""Name of a call of torch or of this library -> function that writes its nodes; operations write those of others."""


def _unknown_call(name: str) -> Refused:
    """The refusal of a call that no operation or activation is traced from."""
    base = name.removesuffix("_backward").strip("_")
    if base in _SMOOTH:
        return Refused(f"the activation {NO_SPIKING}", "replace it by ReLU and fine-tune the network")
    if base in _GATES:
        text = f"{NO_SPIKING}: its output multiplies or normalises other activations"
        return Refused(text, "train the network without it")
    if any(kind in base for kind in ("layer_norm", "group_norm", "instance_norm")):
        text = "layer, group and instance normalisation use statistics of their input, which is not linear"
        return Refused(text, "train the network with batch normalisation")
    if base in ("native_batch_norm_legit", "native_batch_norm", "batch_norm"):
        text = "batch normalisation without running statistics depends on the batch"
        return Refused(text, "train the network with track_running_stats=True")
    text = f"is not a supported linear operation ({NO_SPIKING})"
    return Refused(text, "rewrite it with supported operations, or register an operation for it (rb.register)")
