"""Convert torch calls to nodes of a graph; refuse unknown calls by name.

:class:`Builder` walks the graph that ``torch.export`` recorded. Operations write the nodes of their calls
(:meth:`rheobase.graph.operations.Operation.trace`), and functions of this module write sites.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheobase.activations import ACTIVATIONS
from rheobase.core.errors import RheobaseError, TraceError
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, Call, Fixed, OnNumbers, Ref, Refused
from rheobase.graph.operations.outputs import Structure
from rheobase.graph.trace import elsewhere, piecewise
from rheobase.graph.trace.agreement import TOLERANCE
from rheobase.graph.trace.call import TRACE_BATCH, Elsewhere, Misplaced, Note
from rheobase.graph.trace.dropout import MARK, dropout_of
from rheobase.graph.trace.elsewhere import items, nodes_of
from rheobase.graph.trace.nonlinear import ON_NUMBERS, Nonlinear, allows
from rheobase.graph.trace.piecewise import SITE_MODULES
from rheobase.graph.trace.places import Places
from rheobase.graph.trace.refusals import broken_refused, random_refused, unknown_call, whole_numbers_refused

_CASTS = ("_to_copy", "to", "type_as")
_OF_SHAPE = ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty")
"""Calls that read the shape and the dtype of a tensor, not its values."""

Handler = Callable[["Builder", Call], str | tuple[str, ...]]


class Builder:
    """Walks the fx graph and writes nodes.

    Attributes:
        nodes: nodes written so far, in execution order; ``written`` has them by name.
        shapes: node -> shape of a sample of its value.
        reached: paths of the modules with a traced call.
    """

    def __init__(self, nonlinear: Nonlinear = "refuse") -> None:
        self.nonlinear = nonlinear
        affine = [operation for operation in OPERATIONS.values() if not isinstance(operation, OnNumbers)]
        self.handlers: dict[str, Handler] = {
            **{call: operation.trace for operation in affine for call in operation.traced_from},
            **{call: _registered for activation in ACTIVATIONS.values() for call in activation.traced_from},
            **TRACED,
        }
        self.number_handlers: dict[str, list[Handler]] = {}
        """Calls that may be computed on numbers, if no handler can write them."""
        for operation in OPERATIONS.values():
            for call in operation.traced_from if isinstance(operation, OnNumbers) else ():
                self.number_handlers.setdefault(call, []).append(operation.trace)
        self.refused_modules: dict[str, Note] = {}
        self.refused: dict[str, Note] = {}
        """Refused node -> why, for refused calls and all nodes of refused modules; reported if the output needs it."""
        self.functions: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {}
        """Node with one input that is refused or on numbers -> name and function of its call."""
        self.pieces = piecewise.Pieces()
        self.moved: dict[Places, str] = {}
        """Values whose batch was not at axis 0 -> node with the batch there."""
        self.dtype = torch.float32
        self.least_exact_dtype: torch.dtype | None = None
        """The least exact dtype that the network casts to."""
        self.nodes: list[Node] = []
        self.written: dict[str, Node] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.rewrites: list[Note] = []
        self.dropout: dict[str, tuple[tuple[str, float], ...]] = {}
        """Node -> the dropouts of its value (:class:`rheobase.graph.Graph`)."""
        self.reached: set[str] = set()
        self.stack: list[tuple[str, str]] = []
        """(path, class name) of the modules around the present call, outermost first."""

    @property
    def allows_numbers(self) -> bool:
        """True if the present call may be computed on numbers."""
        return allows(self.nonlinear, self.place()[0])

    def place(self) -> tuple[str, str]:
        """Module path and class name of the present call."""
        return self.stack[-1] if self.stack else ("", "")

    @property
    def tolerance(self) -> float:
        """Largest relative difference between network and graph that rounding explains."""
        return TOLERANCE if self.least_exact_dtype is None else 8 * torch.finfo(self.least_exact_dtype).eps

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
                value = fixed.value.detach().clone()
                self.tensors[tensor_name] = value.to(self.dtype) if value.is_floating_point() else value
        origin = f"{path or 'the network'} ({kind})" if kind else name
        node = Node(name, operation, tuple(map(str, inputs)), attributes or {}, tensor_names, shape, origin)
        self.nodes.append(node)
        self.written[name] = node
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
                if node.target is torch.ops.rheobase.dropout.default:
                    self._keep_dropout(node, values)
        by_name = {node.name: value for node, value in values.items()}  # without the new values of buffers
        found = [by_name.get(str(name)) for name in program.graph_signature.user_outputs]
        if any(isinstance(value, Elsewhere) for value in found):
            reason, remedy = "has no batch axis of its own", "return one row for each image of the batch"
            raise TraceError(reason, where="the network's output", remedy=remedy)
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
                self.dtype = node.meta["val"].dtype
                yield node, self.add("input", (), tuple(node.meta["val"].shape[1:]), label="input")

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Value of a call: the name of a node, a tuple of names, or a constant."""
        if node.target is operator.getitem:
            source, index = values[cast(fx.Node, node.args[0])], cast(int, node.args[1])
            if isinstance(source, Fixed):
                return Fixed(source.value[index])
            return source[index] if isinstance(source, tuple) else source
        if "val" not in node.meta:  # a check of a dtype or a device, recorded with a cast
            return None
        target = cast(Any, node.target)
        shapes = [v.shape for v in _tensors(node.meta["val"])]
        if any(isinstance(n, torch.SymInt) for shape in shapes for n in shape):
            path, kind = self.place()
            reason = "gives a shape that depends on values, such as an index by a mask"
            remedy = "index by numbers: x[:, mask.nonzero()[:, 0].tolist()]"
            raise TraceError(reason, where=f"{path or 'the network'} ({kind})", remedy=remedy)
        random = torch.Tag.nondeterministic_seeded in target.tags and _draws(node)
        name = target.overloadpacket.__name__
        if name in _CASTS:
            self._note_cast(node)
        read = node.all_input_nodes[:1] if name in _CASTS else node.all_input_nodes  # x.type_as(y) does not read y
        depends = any(isinstance(values[source], str | tuple | Elsewhere) for source in read)
        if not random and (not depends or name in _OF_SHAPE):
            return self._constant(node, values)
        call = _recorded(node, values)
        try:
            if random:
                raise random_refused()
            try:
                return self._written(node, call, piecewise.combined_or(self.handlers.get(call.name)))
            except Refused as reason:
                return self._on_numbers(node, call, reason)
        except RheobaseError:
            raise
        except Exception as error:
            refused = error if isinstance(error, Refused) else broken_refused(error)
            if call.name in elsewhere.MOVING and not random:
                with suppress(Refused):  # the batch may leave axis 0 and return
                    return OPERATIONS["select"].trace(self, call)
            sources = tuple(dict.fromkeys(source for value in items(call) for source in nodes_of(value)))
            if isinstance(refused, Misplaced) and any(self.written[s].operation == "refused" for s in sources):
                refused = Refused("", "")
            write = partial(self.write_refused, sources, label=name, refused=refused)
            placed = next((v for v in items(call) if isinstance(v, Places) and v.image.shape in shapes[:1]), None)
            # the batch of the result is where that of the input is
            if placed is not None:
                return elsewhere.write_like(self, placed, write)
            written = write(call.shape)
            self._remember(node, call, written)
            return written

    def _keep_dropout(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        """Keep a dropout for training: with the node before it, if nothing else reads that value."""
        value, dropout = values[node], dropout_of(node, values)
        if dropout is not None and isinstance(value, str):
            self.dropout[value] = (*self.dropout.get(value, ()), dropout)
            return
        path, kind = self.place()
        text = "dropout: its input is read elsewhere too, so a quantised network trains without it"
        self.rewrites.append(Note(f"{path or 'the network'} ({kind})", text))

    def _written(self, node: fx.Node, call: Call, handler: Handler | None) -> Any:
        """The value of a call that a handler writes."""
        if handler is None:
            raise unknown_call(call)
        if any(isinstance(value, Elsewhere) for value in items(call)):
            return elsewhere.trace(self, call, handler)
        first = node.meta["val"]
        first = first[0] if isinstance(first, (tuple, list)) else first
        if isinstance(first, Tensor) and (first.dim() == 0 or first.shape[0] != TRACE_BATCH):
            text = "moves or mixes the batch axis, which must remain axis 0"
            raise Misplaced(text, "keep axis 0 for the batch in every operation")
        return handler(self, call)

    def _on_numbers(self, node: fx.Node, call: Call, refused: Refused) -> Any:
        """The value of a refused call, computed on numbers if that is allowed."""
        for handler in self.number_handlers.get(call.name, ()) if self.allows_numbers else ():
            try:
                written = self._written(node, call, handler)
            except Refused as reason:  # says what would be needed
                refused = reason
                continue
            if isinstance(written, str):
                self._remember(node, call, written)
            return written
        if call.name in self.number_handlers and not self.allows_numbers and refused.remedy:
            raise type(refused)(refused.text, f"{refused.remedy}, or {ON_NUMBERS}")
        raise refused

    def _remember(self, node: fx.Node, call: Call, written: str) -> None:
        """Remember the function of a call with one input, which is left out if it is the last."""
        if len(node.all_input_nodes) == 1 and not _over_another_axis(node, call):
            self.functions[written] = call.name, partial(_call_again, node)

    def _constant(self, node: fx.Node, values: dict[fx.Node, Any]) -> Fixed:
        """The value of a call that does not depend on the input: a standardised weight, zeros to pad channels with."""

        def value(source: fx.Node) -> Any:
            found = values[source]
            if isinstance(found, Fixed):
                return found.value
            like = source.meta["val"]
            return torch.zeros(like.shape, dtype=like.dtype)

        first = next(iter(node.all_input_nodes), None)
        if cast(Any, node.target).overloadpacket.__name__ in _CASTS and first is not None:
            fixed = values[first]
            if fixed.value.is_floating_point() and node.meta["val"].is_floating_point():
                return fixed  # keeps its name and its precision; the graph has one dtype
        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        with torch.no_grad():
            return Fixed(cast(Any, node.target)(*args, **kwargs))

    def _note_cast(self, node: fx.Node) -> None:
        """Remember a cast to a less exact dtype, which the graph does not repeat."""
        dtype = node.meta["val"].dtype
        if dtype.is_floating_point and torch.finfo(dtype).eps > torch.finfo(self.dtype).eps:
            if self.least_exact_dtype is None or torch.finfo(dtype).eps > torch.finfo(self.least_exact_dtype).eps:
                self.least_exact_dtype = dtype
            text = f"casts to {str(dtype).removeprefix('torch.')} are left out, the graph computes in one dtype"
            self.rewrites.append(Note("the network", text))

    def write_refused(self, inputs: tuple[str, ...], shape: tuple[int, ...], label: str, refused: Refused) -> str:
        """Write a node that cannot be converted; tracing continues, to find all of them."""
        path, kind = self.place()
        name = self.add("refused", inputs, shape, label=label)
        known = any(path == known or path.startswith(known + ".") for known in self.refused_modules)
        if refused.text and not known:
            self.refused[name] = Note(f"{path or 'the network'} ({kind})", f"{label}: {refused.text}", refused.remedy)
        return name


def _tensors(value: Any) -> list[Tensor]:
    return [v for v in (value if isinstance(value, (tuple, list)) else (value,)) if isinstance(v, Tensor)]


def _draws(node: fx.Node) -> bool:
    """True unless it is a dropout that is switched off."""
    target = cast(Any, node.target)
    given = dict(zip((argument.name for argument in target._schema.arguments), node.args, strict=False))
    given = {**{a.name: a.default_value for a in target._schema.arguments}, **given, **node.kwargs}
    share = given.get("dropout_p", given.get("p", 1))
    return given.get("train", given.get("training", True)) is not False and share != 0


def _over_another_axis(node: fx.Node, call: Call) -> bool:
    """True for a softmax over another axis than that of the classes, which changes their order."""
    return "softmax" in call.name and int(cast(Any, node.args[1])) % node.meta["val"].dim() != 1


def _call_again(node: fx.Node, x: Tensor) -> Tensor:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: x)
    return cast(Any, node.target)(*args, **kwargs)


def _class_name(kind: Any) -> str:
    return (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]


def _recorded(node: fx.Node, values: dict[fx.Node, Any]) -> Call:
    def resolve(x: fx.Node) -> Any:
        value = values[x]
        if isinstance(value, tuple):
            return tuple(Ref(item) if isinstance(item, str) else item for item in value)
        return Ref(value) if isinstance(value, str) else value

    target = cast(Any, node.target)
    name = target.overloadpacket.__name__
    name = name.rstrip("_") if target.namespace == "aten" else f"{target.namespace}::{name}"
    arguments = {argument.name: argument.default_value for argument in target._schema.arguments}
    arguments.update(zip(arguments, fx.map_arg(node.args, resolve), strict=False))
    arguments.update(fx.map_arg(node.kwargs, resolve))
    outputs = _tensors(node.meta["val"])
    floating = all(v.is_floating_point() for v in outputs)
    return Call(name, arguments, tuple(tuple(v.shape[1:]) for v in outputs), target, floating)


def _staircase(builder: Builder, call: Call) -> str:
    threshold = call["threshold"]
    if not isinstance(threshold, Fixed):
        raise Refused("has a threshold that depends on the input", "use a trained threshold")
    if not bool((threshold.value > 0).all()):
        remedy = "load a checkpoint from before the threshold crossed zero"
        raise Refused("has a trained threshold that is not positive", remedy)
    return builder.add(
        "site",
        (piecewise.before_relu(builder, call.input("z")),),
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
    """Return the input's node for dropout outside training, a copy or a cast to another floating-point dtype."""
    x = call.input("self", "input")
    if not call.floating:
        raise whole_numbers_refused()
    return x


TRACED: dict[str, Handler] = {
    **piecewise.TRACED,
    "rheobase::staircase": _staircase,
    **dict.fromkeys(("clone", "alias", "detach", "contiguous", "lift_fresh_copy", *_CASTS), _pass_through),
    **dict.fromkeys(("identity", "dropout", "feature_dropout", MARK), _pass_through),
    **dict.fromkeys(("alpha_dropout", "native_dropout"), _pass_through),
}
"""Name of a call of torch or of this library -> function that writes its nodes; operations write those of others."""
