"""The soft-targets server: teachers on ONNX Runtime, fused by an operator, cached by content."""

__version__ = "0.1.0"
