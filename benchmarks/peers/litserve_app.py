"""The same contract on LitServe with dynamic batching, as its documentation advises.

    BENCH_ONNX=model_store/1.0/diagonal_flip.onnx python litserve_app.py PORT

LitServe reads annotations at run time, so they cannot be postponed here.
"""

import sys
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request, Response
from network import OCTETS, PATH, count_of, predict_each

BATCH_TIMEOUT_S = 0.001


async def read(request: Request) -> tuple[bytes, int]:
    """Return the body, and how many images it holds; by itself LitServe reads only JSON."""
    body = await request.body()
    return body, count_of(body, request.headers.get("content-type", ""))


class FlipAPI(litserve.LitAPI):
    """Requests that arrive together are one forward pass."""

    def setup(self, _device: str) -> None:
        """Has nothing to load."""

    def decode_request(self, request: Annotated[tuple[bytes, int], Depends(read)]) -> Any:
        """Packed images, and how many."""
        return request

    def predict(self, batch: Any) -> Any:
        """Predictions of each request."""
        answers = predict_each([packed for packed, _ in batch])
        return [rows[:count] for rows, (_, count) in zip(answers, batch, strict=True)]

    def encode_response(self, output: Any) -> Response:
        """Little-endian bytes."""
        return Response(output.tobytes(), media_type=OCTETS)


if __name__ == "__main__":
    api = FlipAPI(max_batch_size=64, batch_timeout=BATCH_TIMEOUT_S, api_path=PATH)
    # fast_queue is LitServe's own advice for speed: ZeroMQ in place of a managed queue.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
