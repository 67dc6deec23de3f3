"""The same contract on mosec: HTTP and dynamic batching in Rust, Python workers behind.

    BENCH_ONNX=model_store/1.0/diagonal_flip.onnx python mosec_app.py --port PORT

A worker of mosec sees no headers, so an odd number of images cannot be told.
"""

from typing import Any

from mosec import Runtime, Server, Worker
from network import OCTETS, PATH, predict_each

BATCH_SIZE = 64
WAIT_MS = 1


class Flip(Worker):
    """Requests that arrive together are one forward pass."""

    resp_mime_type = OCTETS

    def deserialize(self, data: bytes) -> bytes:
        """Packed images as they came."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Predictions as they go."""
        return data

    def forward(self, data: list[bytes]) -> Any:
        """Answers a batch with ``float32[n, 4]`` each."""
        return [rows.tobytes() for rows in predict_each(data)]


if __name__ == "__main__":
    server = Server()
    batched = Runtime(Flip, num=2, max_batch_size=BATCH_SIZE, max_wait_time=WAIT_MS)
    server.register_runtime({PATH: [batched]})
    server.run()
