"""Trace a network to a graph of affine segments between sites, and rewrite the graph."""

from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.rewrites.batch_norm import fold_batch_norm
from rheobase.graph.rewrites.max_pool import replace_max_pool
from rheobase.graph.trace.call import Note
from rheobase.graph.trace.capture import Capture, capture

__all__ = ["Capture", "Graph", "Node", "Note", "capture", "fold_batch_norm", "replace_max_pool"]
