"""From an ``nn.Module`` to a graph."""
