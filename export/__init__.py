"""Build what is served: weights to TorchScript, ONNX and a TorchServe archive."""

import diagonalflip.inference  # noqa: F401 - first: ONNX Runtime is imported after it
