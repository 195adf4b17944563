"""The contract of an operation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from torch import Tensor

from rheobase.graph.node import Node
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

Synapses = Literal["route", "sum", "interpolate", "scale", "weights", "add"]
"""How an operation combines its inputs, and its work. An entry is a coefficient that is not zero.

- ``route`` moves inputs, each to one or several positions. No work.
- ``sum`` adds inputs over windows, with one factor per window (mean pooling). The factor is part of the weights that
  follow, so spikes remain spikes and need no work; values need one addition per entry.
- ``interpolate`` is the same with different factors. Values need one multiply-accumulate (MAC) per entry.
- ``scale`` multiplies inputs by a constant, which is part of the weights that follow. Values need one MAC each.
- ``weights`` multiplies inputs by weights. Each entry needs one addition for a spike, and one MAC for a value.
- ``add`` adds its inputs. Spikes remain spikes; values need one addition each.
"""

Scaled = tuple[Mapping[str, Tensor], Tensor | None]
"""The changed parameters by name, and the remaining factor of the output (None is 1)."""


@dataclass(frozen=True)
class NodeContext:
    """A node, the shape of a sample of every input, and its tensors by argument."""

    node: Node
    inputs: tuple[tuple[int, ...], ...]
    parameters: Mapping[str, Tensor]

    @classmethod
    def of(cls, node: Node, nodes: Mapping[str, Node], tensors: Mapping[str, Tensor]) -> NodeContext:
        """A node of a graph, given its nodes and tensors by name."""
        parameters = {argument: tensors[name] for argument, name in node.parameters.items()}
        return cls(node, tuple(nodes[name].shape for name in node.inputs), parameters)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The node's attributes."""
        return self.node.attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample of its output."""
        return self.node.shape


class Operation(ABC):
    r"""Base class of operations: the nodes of a graph other than the input and sites.

    An operation is affine in its inputs, :math:`op(x) = A x + b`. Its value for the time-mean of a spike train is
    therefore the time-mean of its values (Rueckauer et al. 2017, Eq. 5). Exceptions are max-pooling, whose replacement
    the caller of :func:`rheobase.convert` chooses, and operations on numbers (:class:`.numbers.OnNumbers`).

    A subclass defines ``name`` and ``apply``, and ``traced_from`` for the tracer. The other methods have defaults that
    are always correct, or refuse: without ``synapses``, :func:`rheobase.energy` refuses the operation; without
    ``lower``, :func:`rheobase.exchange.export_nir` does; without ``scale_inputs`` and ``scale_output``, a factor
    becomes an additional affine node. Pass a subclass to :func:`rheobase.register`, and test it with
    :func:`rheobase.testing.check_operation`.

    Tensors are batch-first, [B, ...]. The axis of a value that holds the channels is its ``channel_axis``. A **factor**
    or an **offset** broadcasts against one sample of a value: it is [], or has all axes of the sample, each of size 1
    or full size; for a layer of neurons it is [] or [C, 1, ...]. Factors of inputs are positive, factors of outputs are
    not negative, and all are computed in float64.

    Attributes:
        name: its name in graphs and files.
        traced_from: names of the torch calls that become it, without overload. Calls of ATen have no namespace
            (``"conv2d"``, which includes the in-place ``"conv2d_"``), others have one (``"mylib::flip_channels"``).
        modules: names of module classes for which it is the only node, such as ``"Conv2d"``: the node gets the
            module's name.
        affine: True if it is affine in its inputs.
        makes_new_memory: True if its result never shares memory with an input, and so may be overwritten.
        trained: names of the parameters that training changes.

    Example:
        >>> import torch
        >>> class FlipChannels(Operation):
        ...     name = "flip_channels"
        ...     traced_from = ("mylib::flip_channels",)
        ...     makes_new_memory = True
        ...
        ...     def apply(self, x):
        ...         return x.flip(1)
        ...
        ...     def synapses(self, at):
        ...         return "route"
        ...
        ...     def scale_inputs(self, at, factors):
        ...         (factor,) = factors
        ...         return {}, factor.flip(0) if factor.dim() else factor
        >>> FlipChannels().apply(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[3., 2., 1.]])
    """

    name: ClassVar[str]
    traced_from: ClassVar[tuple[str, ...]] = ()
    modules: ClassVar[tuple[str, ...]] = ()
    affine: ClassVar[bool] = True
    makes_new_memory: ClassVar[bool] = False
    trained: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute a node's value [B, ...] from inputs [B, ...] by position, and attributes and parameters by name.

        The signature must name every argument, because saved nodes are checked against it. The value for an image must
        be bit-identical in every batch.
        """

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        """Write the nodes for a torch call, and return the name of the node for each output of the call.

        The default writes one node. Arguments that depend on the network's input become its inputs, in the order of the
        call's schema; other tensors become parameters, and plain values attributes, with their names in the schema.

        Raises:
            Refused: if the call is not affine with these arguments.
        """
        inputs, fixed, plain = call.split()
        return builder.add(self.name, inputs, call.shape, attributes=plain, parameters=fixed)

    def channel_axis(self, at: NodeContext, axes: Sequence[int | None]) -> int | None:
        """Axis of the output [B, ...] that holds the channels; None for a constant, which is compatible with any axis.

        The default returns the first axis in ``axes`` that is not None.

        Args:
            at: the node.
            axes: the axis of each input.
        """
        return next((axis for axis in axes if axis is not None), None)

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        r"""Move the factors p of the inputs to the output: w' and q with :math:`op(p x; w) = q\, op(x; w')`.

        Args:
            at: the node, with the parameters w.
            factors: p of each input; None is 1, and at least one is not None.

        Returns:
            The changed parameters by name, and q (None is 1); None if no such parameters exist.
        """
        return None

    def scale_output(
        self, at: NodeContext, factor: Tensor | None, offset: Tensor | None
    ) -> Mapping[str, Tensor] | None:
        r"""Move a factor f and an offset o of the output into the parameters: w' with
        :math:`op(x; w') = f\, op(x; w) + o`.

        Args:
            at: the node, with the parameters w.
            factor: f; None is 1.
            offset: o; None is 0.

        Returns:
            The changed parameters by name; None if no such parameters exist.
        """
        return None

    def to_inputs(self, at: NodeContext, value: Tensor) -> Tensor | None:
        r"""Move a factor or an offset of the output to the inputs.

        Returns:
            For the value f a value p with :math:`op(p x_1, p x_2, ...) = f\, op(x_1, x_2, ...)` and with
            :math:`op(x_1 + p, x_2, ...) = op(x_1, x_2, ...) + f`, likewise for every other input; None if no such
            value exists.
        """
        return None

    def synapses(self, at: NodeContext) -> Synapses | None:
        """How the node combines its inputs (:data:`Synapses`); None if its work cannot be counted."""
        return None

    def entries(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute ``apply`` with every entry (a coefficient that is not zero) replaced by 1, and without an offset.

        The default is ``apply``, for operations without an offset whose coefficients are all 0 or 1.
        """
        return self.apply(*args, **kwargs)

    def dense_products(self, at: NodeContext) -> int | None:
        """Number of products including zeros of weights and padding, as papers state it; None: number of entries."""
        return None

    def lower(self, words: Words, node: Node) -> Value:
        """Write the node as NIR nodes.

        Raises:
            NotExpressible: if NIR has no node for it.
        """
        raise NotExpressible(f"is the operation {self.name}")


OPERATIONS: dict[str, Operation] = {}
"""Every operation by its name; :func:`rheobase.register` adds to it."""

T = TypeVar("T", bound=type[Operation])


def built_in(operation: T) -> T:
    """Class decorator: add an operation of this package to ``OPERATIONS``."""
    OPERATIONS[operation.name] = operation()
    return operation


class Passing(Operation):
    """An operation with one input and no weights: a factor of the input becomes one of the output."""

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled | None:
        """Move the factor to the output, like the values."""
        (factor,) = factors
        assert factor is not None
        moved = self.moved(at, factor) if factor.dim() else factor
        return None if moved is None else ({}, moved)

    @abstractmethod
    def moved(self, at: NodeContext, factor: Tensor) -> Tensor | None:
        """The factor of the output for a factor with all axes of the input; None if there is none."""
