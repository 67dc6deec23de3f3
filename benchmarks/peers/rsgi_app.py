"""The same contract on RSGI, granian's own interface: HTTP in Rust, one pass a request.

BENCH_ONNX=model_store/1.0/diagonal_flip.onnx granian --interface rsgi --workers 2 rsgi_app:app
"""

from typing import Any

from network import OCTETS, PATH, count_of, predict


async def app(scope: Any, protocol: Any) -> None:
    """Answers packed images with ``float32[n, 4]``."""
    body = await protocol()
    count = count_of(body, scope.headers.get("content-type", "")) if scope.path == PATH else 0
    status, answer = (200, predict(body)[:count].tobytes()) if count else (400, b"")
    protocol.response_bytes(status, [("content-type", OCTETS)], answer)
