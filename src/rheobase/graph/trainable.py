"""A traced network that trains: the same nodes, parameters with gradients, activations that are modules."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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

    Its parameters have the names they have in the user's network, so weights can be loaded from it and back; those of
    each activation lie below its site's name (``<site>.threshold``). Batch normalisation trains (momentum 0.1) and is
    folded when the network is converted. Made by :func:`rheobase.quantise`.

    Args:
        graph: as traced, batch normalisation not folded.
        activations: one for each site, by its name.
        notes: what tracing rewrote, and what to know of the images that θ started from.
        constraint: what the activations are held to while they train.
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
        self._plan = schedule(graph.nodes[1:], keep={graph.output})
        trained = {
            name
            for node in graph.nodes
            if node.operation in OPERATIONS
            for argument, name in node.parameters.items()
            if argument in OPERATIONS[node.operation].trained
        }
        used = dict.fromkeys(n for node in graph.nodes if node.operation != "site" for n in node.parameters.values())
        for name in used:
            value = graph.tensor(name).detach().clone()
            owner, leaf = owner_of(self, name)
            if name in trained and value.is_floating_point():
                owner.register_parameter(leaf, nn.Parameter(value))
            else:
                owner.register_buffer(leaf, value)
        for site in graph.sites:
            owner, leaf = owner_of(self, site.name)
            if leaf in owner._modules:  # a container made for a parameter that lies below
                raise DataError("holds parameters and is an activation too", where=site.name)
            owner.add_module(leaf, activations[site.name])

    @property
    def activations(self) -> dict[str, QuantisedActivation]:
        """The activation of every site, by its name, in execution order."""
        modules = dict(self.named_modules())
        found: dict[str, Any] = {node.name: modules[node.name] for node in self.nodes if node.operation == "site"}
        return found

    @property
    def learns_levels(self) -> bool:
        """Whether the levels of a site change in training."""
        return any(getattr(part, "learns_levels", False) for part in self.activations.values())

    @property
    def mean_timesteps(self) -> float:
        """Mean of the levels over the sites, which are the time-steps that they will run for."""
        return statistics.fmean(part.levels for part in self.activations.values())

    def constrain(self, done: float) -> None:
        """Hold the activations to their constraint; :func:`rheobase.train` calls it after every step.

        Args:
            done: the share of the training that is over, 0 to 1.
        """
        if self.constraint is not None:
            self.constraint.hold(self.activations, done)

    def constraint_notes(self) -> list[str]:
        """What the constraint says of where the activations ended."""
        return [] if self.constraint is None else self.constraint.notes(self.activations)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input sample."""
        return self.nodes[0].shape

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, ...] -> logits [B, ...]."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise DataError(
                f"have shape {list(x.shape[1:])}, the network was traced for {list(self.input_shape)}", where="images"
            )
        running = _Running(self)
        values: dict[str, Signal] = {self.nodes[0].name: Constant(in_memory_format(x))}
        run(running, self._plan, values, running.nonlinear)
        return values[self.output_name].mean()

    def to_graph(self) -> Graph:
        """The network as it is now, as plain data with staircase sites."""
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
        return Graph(nodes, self.output_name, {name: tensors[name].detach().clone() for name in needed})


class _Running:
    """A trainable graph with its tensors and modules by name, for one run."""

    def __init__(self, graph: TrainableGraph) -> None:
        self.training, self.momentum = graph.training, graph.momentum
        self.tensors = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
        self.modules = dict(graph.named_modules())

    def compute(self, node: Node, *inputs: Signal) -> Signal:
        """The value of an affine node; batch normalisation trains."""
        arguments: dict[str, Any] = {argument: self.tensors[name] for argument, name in node.parameters.items()}
        if node.operation == "batch_norm":
            arguments |= {**node.attributes, "training": self.training, "momentum": self.momentum}
            return Constant(F.batch_norm(inputs[0].values, **arguments))
        apply = OPERATIONS[node.operation].apply
        return Constant(apply(*(signal.values for signal in inputs), **node.attributes, **arguments))

    def nonlinear(self, node: Node, signal: Signal) -> Signal:
        """The activation of a site, or max-pooling."""
        if node.operation == "site":
            return Constant(self.modules[node.name](signal.values))
        return Constant(OPERATIONS[node.operation].apply(signal.values, **node.attributes))
