"""A trainable network with the nodes of a traced graph and a quantised activation at every site."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.activations.activation import Constraint, QuantisedActivation
from rheobase.core.errors import DataError
from rheobase.graph.graph import Graph, owner_of
from rheobase.graph.interpreter import run, schedule
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, in_memory_format
from rheobase.signals.signal import Constant, Signal


class TrainableGraph(nn.Module):
    """A traced network with a quantised activation at every site.

    Parameters have the names of the user's network, so that weights can be exchanged with it. Parameters of an
    activation have the site's name as prefix (``<site>.threshold``). Batch normalisation trains (momentum 0.1) and is
    folded at conversion. Dropout acts in training. Returned by :func:`rheobase.quantise`.

    Args:
        graph: as traced, batch normalisation not folded.
        activations: site -> activation.
        notes: rewrites by tracing, and notes about the images that the initial θ was computed from.
        constraint: condition on the activations that training enforces.
    """

    def __init__(
        self,
        graph: Graph,
        activations: Mapping[str, QuantisedActivation],
        notes: Sequence[str] = (),
        constraint: Constraint | None = None,
    ) -> None:
        super().__init__()
        self.constraint, self.momentum = constraint, 0.1
        self.nodes, self.output_name, self.notes = graph.nodes, graph.output, list(notes)
        self.structure, self.dropout = graph.structure, graph.dropout
        self._plan = schedule(graph.nodes[1:], keep={graph.output})
        uses = [
            (name, argument in OPERATIONS[node.operation].trained)
            for node in graph.nodes
            if node.operation in OPERATIONS
            for argument, name in node.parameters.items()
        ]
        trained = {name for name, trains in uses if trains}
        for name in dict.fromkeys(name for name, _ in uses):
            value = graph.tensor(name).detach().clone()
            owner, leaf = owner_of(self, name)
            if name in trained and value.is_floating_point():
                owner.register_parameter(leaf, nn.Parameter(value))
            else:
                owner.register_buffer(leaf, value)
        for site in graph.sites:
            owner, leaf = owner_of(self, site.name)
            if leaf in owner._modules:  # a container that was created for a parameter
                reason = "is the name of an activation and of a module with parameters"
                raise DataError(reason, where=site.name, remedy="give the activation its own module")
            owner.add_module(leaf, activations[site.name])

    @property
    def activations(self) -> dict[str, QuantisedActivation]:
        """Site -> activation, in execution order."""
        modules = dict(self.named_modules())
        found: dict[str, Any] = {node.name: modules[node.name] for node in self.nodes if node.operation == "site"}
        return found

    @property
    def learns_levels(self) -> bool:
        """True if the levels of any site change in training."""
        return any(getattr(activation, "learns_levels", False) for activation in self.activations.values())

    @property
    def mean_timesteps(self) -> float:
        """Mean of the levels over the sites, which become their time-steps."""
        return statistics.fmean(activation.levels for activation in self.activations.values())

    def constrain(self, done: float) -> None:
        """Enforce the constraint on the activations, after every training step; ``done`` is a share, 0 to 1."""
        if self.constraint is not None:
            self.constraint.project(self.activations, done)

    def constraint_notes(self) -> list[str]:
        """Notes of the constraint about the activations at the end of training."""
        return [] if self.constraint is None else self.constraint.notes(self.activations)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input sample."""
        return self.nodes[0].shape

    def forward(self, x: Tensor) -> Any:
        """``x`` [B, ...] -> logits [B, ...], or all outputs in their structure."""
        if tuple(x.shape[1:]) != self.input_shape:
            reason = f"have shape {list(x.shape[1:])}, the network was traced for {list(self.input_shape)}"
            remedy = "resize or crop them, or quantise again with images of this size"
            raise DataError(reason, where="images", remedy=remedy)
        running = _Run(self)
        values = {self.nodes[0].name: running.dropped(self.nodes[0], in_memory_format(x))}
        run(running, self._plan, values, running.nonlinear)
        output = values[self.output_name].mean()
        return output if self.structure is None else self.structure.unpack(output)

    def to_graph(self) -> Graph:
        """A graph with the present parameters and the sites of the activations."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        activations = self.activations
        nodes = []
        for node in self.nodes:
            if node.operation == "site":
                attributes, values = activations[node.name].site()
                names = {argument: f"{node.name}.{argument}" for argument in values}
                tensors |= {names[argument]: value for argument, value in values.items()}
                node = replace(node, attributes=attributes, parameters=names)
            nodes.append(node)
        needed = {name for node in nodes for name in node.parameters.values()}
        kept = {name: tensors[name].detach().clone() for name in needed}
        return Graph(nodes, self.output_name, kept, self.dropout)


class _Run:
    """The tensors and modules of a trainable graph by name, for one run."""

    def __init__(self, graph: TrainableGraph) -> None:
        self.training, self.momentum, self.dropout = graph.training, graph.momentum, graph.dropout
        self.tensors = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
        self.modules = dict(graph.named_modules())

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """The value of a node other than a site; in training, batch normalisation uses the statistics of the batch."""
        arguments = {**node.attributes, **{argument: self.tensors[name] for argument, name in node.parameters.items()}}
        if node.operation == "batch_norm":
            x = F.batch_norm(inputs[0].values, training=self.training, momentum=self.momentum, **arguments)
        else:
            x = OPERATIONS[node.operation].apply(*(signal.values for signal in inputs), **arguments)
        return self.dropped(node, x)

    def nonlinear(self, node: Node, signal: Signal) -> Signal:
        """The value of a site or a max-pooling."""
        if node.operation == "site":
            return self.dropped(node, self.modules[node.name](signal.values))
        return self.dropped(node, OPERATIONS[node.operation].apply(signal.values, **node.attributes))

    def dropped(self, node: Node, x: Tensor) -> Signal:
        """The value of a node, in training with its dropouts."""
        for function, p in self.dropout.get(node.name, ()) if self.training else ():
            x = getattr(torch, function)(x, p, True)
        return Constant(x)
