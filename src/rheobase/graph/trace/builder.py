"""Convert torch calls to nodes of a graph; refuse unknown calls by name.

:class:`Builder` walks the graph that ``torch.export`` recorded. Operations write the nodes of their calls
(:meth:`rheobase.graph.operations.Operation.trace`), and ``activations.py`` writes sites.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheobase.core.errors import TraceError
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, Call, Fixed, Ref, Refused
from rheobase.graph.trace.activations import traced
from rheobase.graph.trace.no_effect import NO_EFFECT, pass_through
from rheobase.graph.trace.notes import Note
from rheobase.graph.trace.refusals import unknown_call

TRACE_BATCH = 2
"""Images in the traced batch; the first axis of every value computed from the input must have this size."""

Handler = Callable[["Builder", Call], str | tuple[str, ...]]


class Builder:
    """Walks the fx graph and writes nodes.

    Attributes:
        nodes: nodes written so far, in execution order.
        shapes: node -> shape of a sample of its value.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {
            **{call: operation.trace for operation in OPERATIONS.values() for call in operation.traced_from},
            **traced(),
            **dict.fromkeys(NO_EFFECT, pass_through),
        }
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
        """Module path and class name of the present call."""
        stack = list((self.current.meta.get("nn_module_stack") or {}).values()) if self.current else []
        if not stack:
            return "", ""
        path, kind = stack[-1][0], stack[-1][1]
        kind = kind if isinstance(kind, str) else kind.__name__
        return str(path).split("@")[0], kind.rsplit(".", 1)[-1]

    def unique(self, name: str) -> str:
        """The name, with the suffix ``:2``, ``:3``, ... if it is taken."""
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
        is_module = bool(path) and kind in modules
        name = self.unique(path if is_module else ".".join(filter(None, (path, label or operation))))
        tensor_names = {
            argument: self.keep(fixed, f"{name}.{argument}")
            for argument, fixed in (parameters or {}).items()
            if fixed is not None
        }
        origin = f"{path or 'the network'} ({kind})" if kind else name
        self.nodes.append(Node(name, operation, tuple(map(str, inputs)), attributes or {}, tensor_names, shape, origin))
        self.shapes[name] = shape
        return name

    def keep(self, constant: Fixed, fallback: str) -> str:
        """Store a tensor under its name in the user's network, else under ``fallback``, and return the name."""
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
        """Yield parameters and buffers as constants, and the user input as the input node."""
        signature = program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in named:
                name = named[node.name]
                value = program.state_dict.get(name)
                yield node, Fixed(program.constants[name] if value is None else value, name)
            elif node.name in lifted:
                yield node, Fixed(program.constants[lifted[node.name]])
            else:
                yield node, self.add("input", (), tuple(node.meta["val"].shape[1:]), label="input")

    def call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Value of a call: the name of a node, a tuple of names, or a constant."""

        def resolve(x: fx.Node) -> Any:
            value = values[x]
            if isinstance(value, tuple):
                return tuple(map(Ref, value))
            return Ref(value) if isinstance(value, str) else value

        if node.target is operator.getitem:
            source, index = values[cast(fx.Node, node.args[0])], cast(int, node.args[1])
            if isinstance(source, Fixed):
                return Fixed(source.value[index])
            return source[index] if isinstance(source, tuple) else source
        if not any(isinstance(leaf, str) for leaf in _leaves_of_nodes(node, values)):
            return self.constant(node, values)
        call = _call(node, resolve)
        try:
            handler = self.handlers.get(call.name)
            if handler is None:
                raise unknown_call(call.name)
            self.check_batch(node)
            return handler(self, call)
        except Refused as refused:
            label = cast(Any, node.target).overloadpacket.__name__
            self.refuse(label, refused)
            inputs = tuple(name for name in _flat(call.arguments.values()) if isinstance(name, Ref))
            return self.add("refused", inputs[:1], call.shape, label=label)

    def constant(self, node: fx.Node, values: dict[fx.Node, Any]) -> Fixed:
        """Compute a call that does not depend on the input (a standardised weight, zeros to pad channels with)."""

        def concrete(x: fx.Node) -> Any:
            value = values[x]
            return value.value if isinstance(value, Fixed) else value

        with torch.no_grad():
            return Fixed(cast(Any, node.target)(*fx.map_arg(node.args, concrete), **fx.map_arg(node.kwargs, concrete)))

    def check_batch(self, node: fx.Node) -> None:
        """Refuse a call whose result has lost the batch axis."""
        value = node.meta["val"]
        outputs = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(v, Tensor) and (v.dim() == 0 or v.shape[0] != TRACE_BATCH) for v in outputs[:1]):
            raise Refused(
                "moves or mixes the batch axis, which must remain axis 0",
                "keep axis 0 for the batch in every operation",
            )

    def refuse(self, operation: str, refused: Refused) -> None:
        """Record a refusal, once for each module; tracing continues, to find all of them."""
        path, kind = self.place()
        if any(path == known or path.startswith(known + ".") for known in self.refused_modules):
            return  # the whole module is already refused
        note = Note(f"{path or 'the network'} ({kind})", f"{operation}: {refused.text}", refused.remedy)
        if note not in self.refusals:
            self.refusals.append(note)

    def output(self, value: Any) -> str:
        """Name of the node that the network returns."""
        if isinstance(value, str):
            return value
        raise TraceError(
            "does not depend on the input",
            where="the network's output",
            remedy="return a tensor computed from the input",
        )


def _leaves_of_nodes(node: fx.Node, values: dict[fx.Node, Any]) -> Iterator[Any]:
    for source in node.all_input_nodes:
        value = values[source]
        yield from value if isinstance(value, tuple) else (value,)


def _call(node: fx.Node, resolve: Callable[[fx.Node], Any]) -> Call:
    target = cast(Any, node.target)
    name = target.overloadpacket.__name__
    name = name.rstrip("_") if target.namespace == "aten" else f"{target.namespace}::{name}"
    arguments = {argument.name: argument.default_value for argument in target._schema.arguments}
    arguments.update(zip(arguments, fx.map_arg(node.args, resolve), strict=False))
    arguments.update(fx.map_arg(node.kwargs, resolve))
    value = node.meta["val"]
    outputs = value if isinstance(value, (tuple, list)) else (value,)
    return Call(name, arguments, tuple(tuple(v.shape[1:]) for v in outputs if isinstance(v, Tensor)))


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value
