"""From a network to a graph of affine segments between activation sites."""

from rheobase.graph.fold import fold_batch_norm
from rheobase.graph.ir import Graph, Node
from rheobase.graph.maxpool import replace_max_pool
from rheobase.graph.notes import Capture, Note
from rheobase.graph.trace import capture

__all__ = ["Capture", "Graph", "Node", "Note", "capture", "fold_batch_norm", "replace_max_pool"]
