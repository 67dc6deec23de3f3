"""Build what is served: weights to TorchScript, ONNX and a TorchServe archive."""

import diagonalflip.inference  # noqa: F401 - before ONNX Runtime: turns its telemetry off
