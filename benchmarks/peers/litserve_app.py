"""The same contract on LitServe with dynamic batching, as its documentation advises.

    FLIP_ONNX=model_store/diagonal_flip.onnx python litserve_app.py PORT

LitServe reads annotations at run time, so they cannot be postponed here.
"""

import os
import sys
from typing import Annotated, Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Depends, Request, Response

BATCH_TIMEOUT_S = 0.001


async def read(request: Request) -> tuple[bytes, bool]:
    """Body, and whether its last nibble is padding; by itself LitServe reads only JSON."""
    return await request.body(), "padding=4" in request.headers.get("content-type", "")


class FlipAPI(litserve.LitAPI):
    """Requests that arrive together are one forward pass."""

    def setup(self, _device: str) -> None:
        """Loads the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["FLIP_ONNX"], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request: Annotated[tuple[bytes, bool], Depends(read)]) -> Any:
        """Pixels, ``float32[n, 4]``."""
        body, odd = request
        pixels = np.unpackbits(np.frombuffer(body, np.uint8)).reshape(-1, 4)
        return (pixels[:-1] if odd else pixels).astype(np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """All pixels, and where each request's end."""
        return np.concatenate(inputs), np.cumsum([len(pixels) for pixels in inputs])[:-1]

    def predict(self, batch: Any) -> Any:
        """Predictions of the whole batch, and the same ends."""
        pixels, ends = batch
        return self.session.run(["prediction"], {"pixels": pixels})[0], ends

    def unbatch(self, output: Any) -> Any:
        """Predictions of each request."""
        return np.split(*output)

    def encode_response(self, output: Any) -> Response:
        """Little-endian bytes."""
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = FlipAPI(
        max_batch_size=64, batch_timeout=BATCH_TIMEOUT_S, api_path="/predictions/diagonal_flip"
    )
    # fast_queue is LitServe's own advice for speed: ZeroMQ in place of a managed queue.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
