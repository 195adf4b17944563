"""The graph: affine operations between activation sites, as plain data with the tensors beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.graph.operations import OPERATIONS, activation, in_memory_format, max_pool
from rheobase.signal import Held, Signal, Train, lift


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: unique; the module path where the operation is a module's.
        operation: a key of ``OPERATIONS``, or ``input``, ``site``, ``max_pool``.
        inputs: names of the nodes it reads.
        attributes: its constant arguments, JSON values only.
        parameters: argument name -> name of a tensor of the graph.
        shape: shape of one sample of its output (no batch axis).
        origin: where it stood in the user's network, for messages.
    """

    name: str
    operation: str
    inputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    origin: str = ""


Nonlinear = Callable[[Node, Signal], Signal]

MAKES_NEW_MEMORY = frozenset({"conv", "conv_transpose", "linear", "affine", "batch_norm", "add"})
"""Operations whose result is never a view of an input."""


class Graph(nn.Module):
    """Nodes in execution order, and the tensors they use. Calling it runs the original (analog) network.

    The structure never changes in place; ``replace`` gives a new graph. Tensors are buffers, so ``to`` moves them.

    Args:
        nodes: in execution order; the first is the input.
        output: name of the node whose value is the network's output.
        tensors: name -> tensor, for every name in a node's ``parameters``.
    """

    def __init__(self, nodes: Sequence[Node], output: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.output = output
        for name in self.tensor_names:
            self.register_buffer(_key(name), in_memory_format(tensors[name].detach()))
        self._schedule = schedule(self.nodes[1:], keep={output})
        self._overwriting = overwriting(self.nodes, keep={output})

    @property
    def tensor_names(self) -> list[str]:
        """Names of all tensors in use, each once."""
        return list(dict.fromkeys(name for node in self.nodes for name in node.parameters.values()))

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return getattr(self, _key(name))

    def put(self, name: str, tensor: Tensor) -> None:
        """Read ``tensor`` itself, gradient and all, under this name from now on."""
        setattr(self, _key(name), tensor)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self.tensor(name) for name in self.tensor_names}

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(self.buffers(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: the type of its first weights."""
        floating = (tensor.dtype for tensor in self.buffers() if tensor.is_floating_point())
        return next(floating, torch.get_default_dtype())

    @property
    def sites(self) -> list[Node]:
        """The activation sites, in execution order."""
        return [node for node in self.nodes if node.operation == "site"]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input sample."""
        return self.nodes[0].shape

    def replace(
        self,
        *,
        nodes: Sequence[Node] | None = None,
        output: str | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Graph:
        """A new graph; ``tensors`` are added to, or take the place of, those there are."""
        return Graph(
            self.nodes if nodes is None else nodes,
            self.output if output is None else output,
            {**self.tensors, **(tensors or {})},
        )

    def users(self) -> dict[str, list[Node]]:
        """For each node name, the nodes that read it."""
        users: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users[name].append(node)
        return users

    def add_(self, *inputs: Signal) -> Signal:
        """The sum of the inputs, written over the first; as an ``add`` node otherwise."""
        first, *rest = inputs
        steps = {signal.steps for signal in inputs if isinstance(signal, Train)}
        if len(steps) > 1 or (steps and isinstance(first, Held)):
            return lift(OPERATIONS["add"], *inputs)
        for signal in rest:
            first.values.add_(signal.values)
        return first

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """Value of an affine node."""
        parameters = {argument: self.tensor(name) for argument, name in node.parameters.items()}
        function = OPERATIONS[node.operation]
        return lift(lambda *xs: function(*xs, **node.attributes, **parameters), *inputs)

    def analog(self, node: Node, signal: Signal) -> Signal:
        """What a non-linear node computes in the original network."""
        if node.operation == "max_pool":
            return lift(lambda x: max_pool(x, **node.attributes), signal)
        return lift(lambda x: self.activate(node, x), signal)

    def activate(self, node: Node, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """The activation of a site node for ``x`` [B, C, ...]."""
        parameters: Any = {argument: self.tensor(name) for argument, name in node.parameters.items()}
        return activation(x, **node.attributes, **parameters, overwrite=overwrite)

    def forward(self, x: Tensor) -> Tensor:
        """The analog network: ``x`` [B, ...] -> output [B, ...]."""
        return self.on_held_values(x, lambda node, z, overwrite: self.activate(node, z, overwrite=overwrite))

    def on_held_values(self, x: Tensor, site: Callable[[Node, Tensor, bool], Tensor]) -> Tensor:
        """The whole network, every value computed once: ``x`` [B, ...] -> output [B, ...].

        Args:
            x: input.
            site: what a site makes of its current: (node, current [B, C, ...], whether it may write over it).
        """
        values: dict[str, Signal] = {self.nodes[0].name: Held(in_memory_format(x))}
        overwriting = frozenset() if torch.is_grad_enabled() else self._overwriting

        def nonlinear(node: Node, signal: Signal) -> Signal:
            if node.operation == "site":
                return Held(site(node, signal.mean(), node.name in overwriting))
            return self.analog(node, signal)

        run(self, self._schedule, values, nonlinear, overwriting)
        return values[self.output].mean()


def _key(name: str) -> str:
    return name.replace(".", "/")  # torch forbids dots in buffer names


Schedule = list[tuple[Node, tuple[str, ...]]]


def schedule(nodes: Iterable[Node], keep: Iterable[str] = ()) -> Schedule:
    """Pair each node with the values that nobody needs after it, so that memory is given back early."""
    nodes, keep = list(nodes), set(keep)
    last = {name: i for i, node in enumerate(nodes) for name in (*node.inputs, node.name)}
    released: list[list[str]] = [[] for _ in nodes]
    for name, i in last.items():
        if name not in keep:
            released[i].append(name)
    return [(node, tuple(names)) for node, names in zip(nodes, released, strict=True)]


def overwriting(nodes: Iterable[Node], keep: Iterable[str]) -> frozenset[str]:
    """Nodes that may write their result over their first input: new memory, which only they read.

    Memory that is freed and taken again costs more than the arithmetic of a neuron (measured).

    Args:
        nodes: all that are run.
        keep: names of values that somebody reads afterwards.
    """
    nodes = list(nodes)
    readers = Counter(name for node in nodes for name in set(node.inputs))
    free = {n.name for n in nodes if n.operation in MAKES_NEW_MEMORY and readers[n.name] == 1} - {*keep}
    return frozenset(
        n.name
        for n in nodes
        if n.operation in ("add", "site") and n.inputs[0] in free and n.inputs.count(n.inputs[0]) == 1
    )


def run(
    graph: Graph,
    plan: Schedule,
    values: dict[str, Signal],
    nonlinear: Nonlinear,
    overwriting: Container[str] = (),
) -> None:
    """Evaluate the nodes of a plan in order, reading from and writing to ``values``.

    Args:
        graph: holds the tensors.
        plan: what to do.
        values: signals by the name of the node that they come from.
        nonlinear: what to do at sites and max-pooling.
        overwriting: sums that may be written over their first term (:func:`overwriting`), where nobody else has that
            signal.
    """
    for node, released in plan:
        inputs = [values[name] for name in node.inputs]
        if node.operation == "add" and node.name in overwriting:
            values[node.name] = graph.add_(*inputs)
        elif node.operation in OPERATIONS:
            values[node.name] = graph.compute(node, *inputs)
        else:
            values[node.name] = nonlinear(node, *inputs)
        for name in released:
            del values[name]
