"""The operations of a graph, one class each; ``operation.py`` defines their contract."""

from rheobase.graph.operations import (  # noqa: F401 - registers them
    affine,
    attention,
    lookup,
    norms,
    outputs,
    pointwise,
    select,
    shape,
    weighted,
    windows,
)
from rheobase.graph.operations.numbers import OnNumbers as OnNumbers
from rheobase.graph.operations.operation import OPERATIONS as OPERATIONS
from rheobase.graph.operations.operation import NodeContext as NodeContext
from rheobase.graph.operations.operation import Operation as Operation
from rheobase.graph.operations.operation import Scaled as Scaled
from rheobase.graph.operations.operation import Synapses as Synapses
from rheobase.graph.operations.weighted import in_memory_format as in_memory_format
from rheobase.graph.operations.words import NotExpressible as NotExpressible
from rheobase.graph.operations.words import Value as Value
from rheobase.graph.operations.words import Words as Words
from rheobase.graph.trace.call import Call as Call
from rheobase.graph.trace.call import Fixed as Fixed
from rheobase.graph.trace.call import Ref as Ref
from rheobase.graph.trace.call import Refused as Refused
