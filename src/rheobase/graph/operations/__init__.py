"""The operations a graph may hold between activation sites, one class each: begin with ``operation.py``."""

from rheobase.graph.operations import affine, joins, pooling, shape, upsample, weighted  # noqa: F401 - fill the table
from rheobase.graph.operations.kernels import in_memory_format
from rheobase.graph.operations.operation import OPERATIONS, NodeContext, Operation, Scaled, Synapses
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
