"""Requests to responses, by a model on one device; knows no sockets."""

import os

# From 1.29 on, ONNX Runtime tells its maker what it runs, unless it is imported after this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
