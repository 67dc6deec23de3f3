"""Metadata of server and model, as the Open Inference Protocol V2 has it."""

from __future__ import annotations

from collections.abc import Sequence

from diagonalflip.inference.encoders import dump
from diagonalflip.wire import MAX_IMAGES, MODEL, PIXELS

EXTENSIONS = ["binary_tensor_data", "model_configuration"]


def documents(versions: Sequence[str], platform: str) -> dict[str, bytes]:
    """Describe the server, the model and its configuration.

    The latter as Triton has it (model_config.proto in its repository ``common``).

    Args:
        versions: Of the model; the first one answers.
        platform: Computes them.
    """
    server = {"name": MODEL, "version": versions[0], "extensions": EXTENSIONS}
    model = {
        "name": MODEL,
        "versions": list(versions),
        "platform": platform,
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, PIXELS]}],
        "outputs": [{"name": "prediction", "datatype": "FP32", "shape": [-1, PIXELS]}],
    }
    config = {
        "name": MODEL,
        "platform": platform,
        "max_batch_size": MAX_IMAGES,
        "input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [PIXELS]}],
        "output": [{"name": "prediction", "data_type": "TYPE_FP32", "dims": [PIXELS]}],
    }
    told = {"server": server, "model": model, "config": config}
    return {name: dump(document) for name, document in told.items()}
