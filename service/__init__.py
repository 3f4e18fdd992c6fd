"""The soft-targets server: teachers on ONNX Runtime, fused by an operator, cached by content."""

import os

__version__ = "0.1.0"

# Since 1.29 ONNX Runtime's Linux packages tell Microsoft of the sessions they make, names of models included,
# unless this is set before it is imported. Whoever sets it themselves is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
