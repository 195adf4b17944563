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
"""What an operation does with its inputs, and the work for spikes and for values that are not spikes. An entry is a
coefficient that is not zero.

- ``route`` moves them, each to one position or several. No work.
- ``sum`` adds them up over windows, with one factor for a window (pooling by mean). The factor is part of the weights
  that follow, so spikes stay spikes and take no work; values take one addition for each entry.
- ``interpolate`` does the same with different factors. Values take one multiply-accumulate (MAC) for each entry.
- ``scale`` multiplies them by a constant, which is part of the weights that follow. Values take one MAC each.
- ``weights`` multiplies them by weights. Each entry takes one addition for a spike, and one MAC for a value.
- ``add`` adds its inputs. Spikes stay spikes; values take one addition each.
"""

Scaled = tuple[Mapping[str, Tensor], Tensor | None]
"""The changed parameters by name, and the factor that the output then lacks (None is 1)."""


@dataclass(frozen=True)
class NodeContext:
    """A node together with the shapes of its inputs and its tensors.

    Attributes:
        node: the node.
        inputs: shape of a sample of every input.
        parameters: its tensors, by argument.
    """

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
    r"""One kind of node between two activation sites, with everything that Rheobase knows of it.

    An operation is affine in its inputs, :math:`op(x) = A x + b`. Its value for the time-mean of a spike train is
    therefore the time-mean of its values (Rueckauer et al. 2017, Eq. 5). Max-pooling is the only exception: the caller
    of :func:`rheobase.convert` chooses its replacement.

    A class defines ``name`` and ``apply``, and ``traced_from`` for the tracer. Everything else has a default, which is
    either always right or refuses by the operation's name: without ``synapses``, :func:`rheobase.energy` refuses;
    without ``lower``, :func:`rheobase.exchange.export_nir` refuses; without ``scale_inputs`` and ``scale_output``, a
    factor becomes an affine node next to it. :func:`rheobase.register` adds a class from outside, and
    :func:`rheobase.testing.check_operation` checks that it keeps this contract.

    Tensors are batch-first, [B, ...]. One axis of a value holds its channels, ``channel_axis``. A **factor** or an
    **offset** broadcasts against one sample of a value: it is [], or has an axis for each of the sample's, of size 1 or
    of full size; that of a layer of neurons is [] or [C, 1, ...]. Factors of inputs are positive, factors of outputs
    are not negative, and all are computed in float64.

    Attributes:
        name: in graphs and files.
        traced_from: names of the torch calls that become it, without overload: of ATen plainly (``"conv2d"``, which
            includes the in-place ``"conv2d_"``), of others with their namespace (``"mylib::flip_channels"``).
        modules: names of module classes whose only node it is, such as ``"Conv2d"``: the node gets the module's name.
        affine: whether it is affine in its inputs.
        makes_new_memory: whether its result never shares memory with an input, so that it may be overwritten.
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

        The signature must name every argument: a saved node that does not fit it is refused. The value for an image
        must be the same in every batch, bit for bit.
        """

    # -- from the user's network --------------------------------------------------------------------------------------

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
        """Axis of the output [B, ...] that holds the channels; None for a constant, which fits any.

        Args:
            at: the node.
            axes: the axis of each input. The default returns the first that is not None.
        """
        return next((axis for axis in axes if axis is not None), None)

    # -- factors ------------------------------------------------------------------------------------------------------

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

    # -- spikes -------------------------------------------------------------------------------------------------------

    def synapses(self, at: NodeContext) -> Synapses | None:
        """Return what the node does with spikes (:data:`Synapses`); None refuses to count its work."""
        return None

    def entries(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute ``apply`` with every entry, a coefficient that is not zero, replaced by 1, and without an offset.

        The default is ``apply`` itself, for operations whose coefficients are all 0 or 1 and that add nothing.
        """
        return self.apply(*args, **kwargs)

    def dense_products(self, at: NodeContext) -> int | None:
        """Return the number of products with zeros of weights and padding, as papers state it; None: the entries."""
        return None

    # -- other formats ------------------------------------------------------------------------------------------------

    def lower(self, words: Words, node: Node) -> Value:
        """Write the node as NIR nodes.

        Raises:
            NotExpressible: if NIR has no node for it.
        """
        raise NotExpressible(f"is the operation {self.name}")


OPERATIONS: dict[str, Operation] = {}
"""Every operation by its name; :func:`rheobase.register` adds to them."""

T = TypeVar("T", bound=type[Operation])


def built_in(operation: T) -> T:
    """Add an operation of this package to the table."""
    OPERATIONS[operation.name] = operation()
    return operation
