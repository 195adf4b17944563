"""The spiking network: neurons at the sites of a graph, and how it runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
