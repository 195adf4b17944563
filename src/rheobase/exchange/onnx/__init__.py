"""Import of ONNX files as networks of PyTorch, and export of networks on whole numbers."""

from rheobase.exchange.onnx.export import ONNXExport, export_onnx, to_pixels
from rheobase.exchange.onnx.importing import import_onnx, input_shape, is_onnx

__all__ = ["ONNXExport", "export_onnx", "import_onnx", "input_shape", "is_onnx", "to_pixels"]
