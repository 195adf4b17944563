"""Conformance tests: each puts a neuron, an operation, an activation or a pass through what its contract promises."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
