"""Conformance tests for parts from outside, and for our own: each puts a part through what its contract promises."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
