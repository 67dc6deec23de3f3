"""Requests to responses, by a model on one device; knows no sockets."""

import os

# Turns off the telemetry that ONNX Runtime has from 1.29 on; it reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
