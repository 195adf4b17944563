from . import checkpoints as checkpoints
from . import nir as nir
from .nir import NIRExport as NIRExport
from .nir import export_nir as export_nir
from .nir import import_nir as import_nir
from .store import load as load
from .store import save as save
from .whole_numbers._integers import integers as integers

__all__ = ["NIRExport", "checkpoints", "export_nir", "import_nir", "integers", "load", "nir", "save"]
