"""Trace an ``nn.Module`` to a graph."""
