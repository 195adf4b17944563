from . import checkpoints as checkpoints
from . import nir as nir
from . import onnx as onnx
from .golden import GoldenVectors as GoldenVectors
from .golden import read_golden_vectors as read_golden_vectors
from .golden import write_golden_vectors as write_golden_vectors
from .nir import NIRExport as NIRExport
from .nir import export_nir as export_nir
from .nir import import_nir as import_nir
from .onnx import ONNXExport as ONNXExport
from .onnx import export_onnx as export_onnx
from .onnx import import_onnx as import_onnx
from .store import load as load
from .store import save as save
from .whole_numbers._integers import integers as integers

__all__ = [
    "GoldenVectors",
    "NIRExport",
    "ONNXExport",
    "checkpoints",
    "export_nir",
    "export_onnx",
    "import_nir",
    "import_onnx",
    "integers",
    "load",
    "nir",
    "onnx",
    "read_golden_vectors",
    "save",
    "write_golden_vectors",
]
