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
"""What an operation does with a spike that arrives, and the work that it takes:

- ``route``: moves it, to one place or several. No work.
- ``sum``: adds it up over windows with a factor that is the same in all of them, as pooling by mean does. The factor
  becomes part of the weights behind it, and the spike continues as a spike. Values that are no spikes take one addition
  an entry.
- ``interpolate``: the same with factors that differ. Values take one multiply-accumulate (MAC) an entry.
- ``scale``: multiplies it by a constant, which becomes part of the weights behind it. Values take one MAC each.
- ``weights``: multiplies it by weights. A spike takes one addition for every weight that is not zero, values one MAC.
- ``add``: adds the inputs. Spikes continue as spikes; values take one addition each.
"""

Scaled = tuple[Mapping[str, Tensor], Tensor | None]
"""Parameters that change, by name, and the factor that the output then lacks (None: 1)."""


@dataclass(frozen=True)
class Place:
    """A node with what surrounds it.

    Attributes:
        node: the node.
        inputs: shape of a sample of every input.
        parameters: its tensors, by argument.
    """

    node: Node
    inputs: tuple[tuple[int, ...], ...]
    parameters: Mapping[str, Tensor]

    @classmethod
    def of(cls, node: Node, nodes: Mapping[str, Node], tensors: Mapping[str, Tensor]) -> Place:
        """A node of a graph, given its nodes and tensors by name."""
        parameters = {argument: tensors[name] for argument, name in node.parameters.items()}
        return cls(node, tuple(nodes[name].shape for name in node.inputs), parameters)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Of the node."""
        return self.node.attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample of its output."""
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
    of full size; that of a layer of neurons is [] or [C, 1, ...]. Factors are positive, and computed with in float64.

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
        """Value of a node: inputs [B, ...] by position, attributes and parameters by name -> [B, ...].

        The signature names every argument: a saved node that does not fit it is refused. The result for an image must
        be the same to the bit in every batch.
        """

    # -- from the user's network --------------------------------------------------------------------------------------

    def trace(self, builder: Builder, call: Call) -> str | tuple[str, ...]:
        """Write the nodes for a torch call, and return the name of the one that has its value; one for each output.

        By default one node: what depends on the network's input becomes its inputs, in the order of the call's schema;
        tensors become parameters, and everything else attributes, by the names that they have in the schema.

        Raises:
            Refused: if the call is not affine with these arguments.
        """
        inputs, fixed, plain = call.split()
        return builder.add(self.name, inputs, call.shape, attributes=plain, parameters=fixed)

    def channel_axis(self, at: Place, axes: Sequence[int | None]) -> int | None:
        """Axis of the output [B, ...] that holds its channels; None where it has none of its own (a constant).

        Args:
            at: the node.
            axes: the same of every input. The default is the first of them that is not None.
        """
        return next((axis for axis in axes if axis is not None), None)

    # -- factors ------------------------------------------------------------------------------------------------------

    def scale_inputs(self, at: Place, factors: Sequence[Tensor | None]) -> Scaled | None:
        r"""Move the factors p of the inputs to the output: w' and q with :math:`op(p x; w) = q\, op(x; w')`.

        Args:
            at: the node, with the parameters w.
            factors: p of every input; None is 1, and at least one is not None.

        Returns:
            The parameters that change, by name, and q (None is 1); None if there are no such parameters.
        """
        return None

    def scale_output(self, at: Place, factor: Tensor | None, offset: Tensor | None) -> Mapping[str, Tensor] | None:
        r"""Move a factor f and an offset o of the output into the parameters: w' with
        :math:`op(x; w') = f\, op(x; w) + o`.

        Args:
            at: the node, with the parameters w.
            factor: f; None is 1.
            offset: o; None is 0.

        Returns:
            The parameters that change, by name; None if there are no such parameters.
        """
        return None

    def to_inputs(self, at: Place, value: Tensor) -> Tensor | None:
        r"""Move a factor or an offset of the output to the inputs.

        Returns:
            For the value f a value p with :math:`op(p x_1, p x_2, ...) = f\, op(x_1, x_2, ...)` and with
            :math:`op(x_1 + p, x_2, ...) = op(x_1, x_2, ...) + f`, likewise for every other input; None if no such
            value exists.
        """
        return None

    # -- spikes -------------------------------------------------------------------------------------------------------

    def synapses(self, at: Place) -> Synapses | None:
        """What the node does with a spike (:data:`Synapses`); None refuses to count operations."""
        return None

    def entries(self, *args: Any, **kwargs: Any) -> Tensor:
        """How often each element of the inputs enters each element of the output; arguments as for ``apply``.

        That is ``apply`` with every coefficient that is not zero replaced by 1, and without what does not depend on the
        inputs. The default is right where all coefficients are 1 and nothing is added.
        """
        return self.apply(*args, **kwargs)

    def dense_products(self, at: Place) -> int | None:
        """Products of ``weights`` with zeros of weights and padding, as papers state them; None: those of entries."""
        return None

    # -- other formats ------------------------------------------------------------------------------------------------

    def lower(self, words: Words, node: Node) -> Value:
        """The node in the words of NIR.

        Raises:
            NotExpressible: if NIR has no word for it.
        """
        raise NotExpressible(f"is the operation {self.name}")


OPERATIONS: dict[str, Operation] = {}
"""Every operation by its name; :func:`rheobase.register` adds to them."""

O = TypeVar("O", bound=type[Operation])  # noqa: E741


def built_in(operation: O) -> O:
    """Add an operation of this package to the table."""
    OPERATIONS[operation.name] = operation()
    return operation
