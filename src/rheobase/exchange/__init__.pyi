from . import checkpoints as checkpoints
from . import nir as nir
from . import onnx as onnx
from .nir import NIRExport as NIRExport
from .nir import export_nir as export_nir
from .nir import import_nir as import_nir
from .onnx import import_onnx as import_onnx
from .store import load as load
from .store import save as save
from .whole_numbers._integers import integers as integers

__all__ = [
    "NIRExport",
    "checkpoints",
    "export_nir",
    "import_nir",
    "import_onnx",
    "integers",
    "load",
    "nir",
    "onnx",
    "save",
]
