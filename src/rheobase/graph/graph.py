"""The graph: affine operations between sites, as plain data and tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.activations import ACTIVATIONS
from rheobase.core.errors import DataError
from rheobase.core.memory import in_pieces
from rheobase.graph.interpreter import overwriting, run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, OnNumbers, in_memory_format
from rheobase.graph.operations.lookup import Lookup
from rheobase.graph.operations.numbers import check_finite
from rheobase.graph.operations.outputs import Structure, choose_output, structure_of
from rheobase.graph.operations.weighted import Weighted
from rheobase.signals.signal import Averaged, Constant, Signal, TimeSeries, lift


def needed_for(output: str, nodes: Sequence[Node]) -> list[Node]:
    """The input, which is the first node, and the nodes that an output depends on."""
    needed = {output, nodes[0].name}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return [node for node in nodes if node.name in needed]


class Graph(nn.Module):
    """Nodes in execution order, and the tensors they use. Calling the graph runs the analog network.

    The structure never changes in place; ``replace`` returns a new graph. Tensors are buffers of ``weights``, so ``to``
    moves them.

    Args:
        nodes: in execution order; the first is the input.
        output: name of the node whose value is the network's output.
        tensors: name -> tensor, for every name in a node's ``parameters``.
        dropout: node -> the dropouts of its value, each as a function of torch and its p. A graph keeps them for
            :class:`TrainableGraph`, which applies them in training; they are no part of a spiking network.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        output: str,
        tensors: Mapping[str, Tensor],
        dropout: Mapping[str, tuple[tuple[str, float], ...]] | None = None,
    ) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.dropout = dict(dropout or {})
        self.output = output
        self.weights = nn.Module()  # a separate module: a tensor may have the name of an attribute of this class
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        for name in self.tensor_names:
            owner, leaf = owner_of(self.weights, name)
            owner.register_buffer(leaf, in_memory_format(tensors[name].detach()))
            self._owners[name] = owner, leaf
        self._schedule = schedule(self.nodes[1:], keep={output})
        self._overwriting = overwriting(self.nodes, keep={output})

    @property
    def tensor_names(self) -> list[str]:
        """Names of all tensors in use, each once."""
        return list(dict.fromkeys(name for node in self.nodes for name in node.parameters.values()))

    def tensor(self, name: str) -> Tensor:
        """The tensor with this name."""
        return getattr(*self._owners[name])

    def put(self, name: str, tensor: Tensor) -> None:
        """Replace the tensor with this name by ``tensor``, without a copy, so that it may require a gradient."""
        setattr(*self._owners[name], tensor)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self.tensor(name) for name in self.tensor_names}

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next(iter(self.tensors.values()), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation, that of the first floating-point tensor."""
        floating = (tensor.dtype for tensor in self.tensors.values() if tensor.is_floating_point())
        return next(floating, torch.get_default_dtype())

    @property
    def sites(self) -> list[Node]:
        """The nodes of the sites, in execution order."""
        return [node for node in self.nodes if node.operation == "site"]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input sample."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one input sample."""
        return next(node.shape for node in self.nodes if node.name == self.output)

    @property
    def structure(self) -> Structure | None:
        """How the output is divided into the outputs of the network; None if it is one output."""
        return structure_of(next(node for node in self.nodes if node.name == self.output))

    def unpack(self, values: Tensor) -> Any:
        """The outputs of the network, in its structure, from values [..., F] of the output."""
        return values if (structure := self.structure) is None else structure.unpack(values)

    def select(self, output: str | int | None = None) -> Graph:
        """The graph with one output of several; ``self`` if it has only one.

        Args:
            output: name or position of the output (:class:`rheobase.graph.operations.outputs.Structure`). Default: the
                one named "logits" or "out".

        Raises:
            TraceError: if no output is chosen, or the graph has no such output.
        """
        if (structure := self.structure) is None:
            if output is not None:
                choose_output({"": self.output_shape}, output, "is", "leave output out")
            return self
        shapes = structure.shapes
        name = choose_output(shapes, output, "joins", "choose one, such as network.select({})")
        by_name = {node.name: node for node in self.nodes}
        flat = by_name[by_name[self.output].inputs[list(shapes).index(name)]]
        shape = list(shapes[name])
        last = Node(f"{self.output}.{name}", "reshape", (flat.name,), {"shape": shape}, {}, shapes[name], flat.origin)
        return self.replace(nodes=needed_for(last.name, [*self.nodes, last]), output=last.name)

    def replace(
        self,
        *,
        nodes: Sequence[Node] = (),
        output: str | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        dropout: Mapping[str, tuple[tuple[str, float], ...]] | None = None,
    ) -> Graph:
        """A new graph with other nodes or output; ``tensors`` are added to the present ones or replace them by name."""
        dropout = self.dropout if dropout is None else dropout
        return Graph(nodes or self.nodes, output or self.output, {**self.tensors, **(tensors or {})}, dropout)

    def on(self, device: torch.device) -> Graph:
        """The same graph with its tensors on a device; this graph is not moved."""
        return self.replace(tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def users(self) -> dict[str, list[Node]]:
        """For each node name, the nodes that read it."""
        users: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users[name].append(node)
        return users

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """Value of an affine node, or of one on numbers, which must be finite."""
        parameters = {argument: self.tensor(name) for argument, name in node.parameters.items()}
        operation = OPERATIONS[node.operation]
        if isinstance(operation, Weighted):  # running means would be computed at the cost of a second layer
            inputs = tuple(TimeSeries(s.values) if isinstance(s, Averaged) else s for s in inputs)
        value = lift(lambda *xs: operation.apply(*xs, **node.attributes, **parameters), *inputs)
        if isinstance(operation, OnNumbers):
            check_finite(node, value.values)
        return value

    def analog(self, node: Node, signal: Signal) -> Signal:
        """Value of a non-linear node in the analog network."""
        return (
            lift(lambda x: self.activate(node, x), signal) if node.operation == "site" else self.compute(node, signal)
        )

    def look_up(self, node: Node, total: Tensor, steps: int) -> Tensor:
        """The output for one step of a lookup whose input is summed over a number of steps, [B, ...]."""
        given: dict[str, Any] = {argument: self.tensor(name) for argument, name in node.parameters.items()}
        given |= {name: value for name, value in node.attributes.items() if name != "function"}
        return Lookup().of_sum(total, steps, **given)

    def activate(self, node: Node, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """The activation of a site for a pre-activation ``x`` [B, C, ...]."""
        tensors = {argument: self.tensor(name) for argument, name in node.parameters.items()}
        attributes = dict(node.attributes)
        return ACTIVATIONS[attributes.pop("activation")].apply(x, overwrite=overwrite, **attributes, **tensors)

    def forward(self, x: Tensor) -> Tensor:
        """The analog network: ``x`` [B, ...] -> output [B, ...].

        Raises a DataError for images of another size: shapes in the graph are those of the traced example.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            reason = f"have shape {list(x.shape[1:])}, the network was traced for {list(self.input_shape)}"
            remedy = "resize or crop them, or trace the network again with an example of this size"
            raise DataError(reason, where="images", remedy=remedy)

        def run(graph: Graph, piece: Tensor, _: object) -> Tensor:
            return graph.on_means(piece, lambda node, z, overwrite: graph.activate(node, z, overwrite=overwrite))

        return run(self, x, None) if torch.is_grad_enabled() else in_pieces(run, self, x, max(1, len(x)))

    def on_means(
        self,
        x: Tensor,
        site: Callable[[Node, Tensor, bool], Tensor],
        lookup: Callable[[Node, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Run the network on time-means, each value computed once: ``x`` [B, ...] -> output [B, ...].

        ``site``: (node, current [B, C, ...], True if the output may be written over the current) -> output of the site.
        ``lookup``: (node, input [B, ...]) -> output of a lookup, for values that are sums over steps.
        """
        values: dict[str, Signal] = {self.nodes[0].name: Constant(in_memory_format(x))}
        overwriting = frozenset() if torch.is_grad_enabled() else self._overwriting

        def nonlinear(node: Node, signal: Signal) -> Signal:
            if node.operation == "site":
                return Constant(site(node, signal.mean(), node.name in overwriting))
            if lookup is not None and node.operation == Lookup.name:
                return Constant(lookup(node, signal.mean()))
            return self.analog(node, signal)

        run(self, self._schedule, values, nonlinear, overwriting)
        return values[self.output].mean()


def owner_of(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module below ``root`` that owns the tensor ``name``, created if needed, and the tensor's name in it."""
    *path, leaf = name.split(".")
    module = root
    for part in path:
        if part in module._buffers or part in module._parameters:
            part += "_"  # a tensor has this name
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module, leaf + "_" if leaf in module._modules else leaf
