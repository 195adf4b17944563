"""Import of ONNX files as networks of PyTorch."""

from rheobase.exchange.onnx.importing import import_onnx, input_shape, is_onnx

__all__ = ["import_onnx", "input_shape", "is_onnx"]
