"""The operations of a graph, one class each; ``operation.py`` defines their contract."""

from rheobase.graph.operations import affine, shape, weighted, windows  # noqa: F401 - registers them
from rheobase.graph.operations.operation import OPERATIONS, NodeContext, Operation, Scaled, Synapses
from rheobase.graph.operations.weighted import in_memory_format
from rheobase.graph.operations.words import NotExpressible, Value, Words
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused

__all__ = [
    "OPERATIONS",
    "Call",
    "Fixed",
    "NodeContext",
    "NotExpressible",
    "Operation",
    "Ref",
    "Refused",
    "Scaled",
    "Synapses",
    "Value",
    "Words",
    "in_memory_format",
]
