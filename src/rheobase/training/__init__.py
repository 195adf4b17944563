"""Training: one loop for a CPU, a GPU or several processes, with augmentation, distillation and runs that resume."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
