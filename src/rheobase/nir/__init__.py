"""Networks in the Neuromorphic Intermediate Representation (NIR, Pedersen et al. 2024), which other simulators read."""

from rheobase.nir.export import NIRExport, export_nir
from rheobase.nir.reading import import_nir

__all__ = ["NIRExport", "export_nir", "import_nir"]
