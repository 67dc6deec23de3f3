"""The same contract on FastAPI and ONNX Runtime, as a careful user would write it.

FLIP_ONNX=model_store/diagonal_flip.onnx uvicorn --workers 2 fastapi_app:app
"""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request, Response

OCTETS = "application/octet-stream"
MAX_BYTES = 1 << 19

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # a worker a core already
session = onnxruntime.InferenceSession(
    os.environ["FLIP_ONNX"], options, providers=["CPUExecutionProvider"]
)
app = FastAPI()


@app.post("/predictions/diagonal_flip")
async def predict(request: Request) -> Response:
    """Answers packed images with ``float32[n, 4]``."""
    packed = np.frombuffer(await request.body(), np.uint8)
    if not 0 < len(packed) <= MAX_BYTES:
        raise HTTPException(400, "1 byte to 512 KiB of packed images are expected")
    pixels = np.unpackbits(packed).reshape(-1, 4).astype(np.float32)
    if "padding=4" in request.headers.get("content-type", ""):
        pixels = pixels[:-1]
    predictions = session.run(["prediction"], {"pixels": pixels})[0]
    return Response(predictions.tobytes(), media_type=OCTETS)
