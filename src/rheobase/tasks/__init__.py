"""Tasks: what the outputs of a network are for, with loss, distillation, agreement and measures of each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
