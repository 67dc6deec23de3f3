"""Build what is served: weights to TorchScript, ONNX and a TorchServe archive."""
