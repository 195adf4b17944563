"""Checks that a neuron, an activation, an operation or a pass keeps its contract, for tests of your own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
