"""Convert trained PyTorch networks to spiking networks, and measure what the conversion costs.

Names are imported when they are first used, so that ``import rheobase`` and ``rheobase --help`` load neither torch nor
what only some functions need. ``__init__.pyi`` lists them: the functions and methods most people need, and namespaces
(``rb.methods``, ``rb.passes``, ``rb.measure``, ``rb.neurons``, ``rb.exchange``...) for the rest.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
