"""Export to and import from the Neuromorphic Intermediate Representation (NIR, Pedersen et al. 2024)."""

from rheobase.exchange.nir.export import NIRExport, export_nir
from rheobase.exchange.nir.reading import import_nir

__all__ = ["NIRExport", "export_nir", "import_nir"]
