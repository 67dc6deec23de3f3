"""Bare ASGI that answers what has arrived together in one pass, as our worker does.

Without a framework, and without our contract: one form, no limits but of the body's length.

BENCH_ONNX=model_store/1.0/diagonal_flip.onnx uvicorn --workers 2 asgi_app:app
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from network import OCTETS, PATH, count_of, predict_each

MOST_REQUESTS = 128
MOST_BYTES = 1 << 17

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]

waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []


def answer_all() -> None:
    """Answers all that waits, in batches of bounded size."""
    while waiting:
        size = taken = 0
        while taken < min(len(waiting), MOST_REQUESTS) and size < MOST_BYTES:
            size += len(waiting[taken][0])
            taken += 1
        batch, waiting[:taken] = waiting[:taken], []
        answers = predict_each([packed for packed, _ in batch])
        for rows, (_, answer) in zip(answers, batch, strict=True):
            answer.set_result(rows.tobytes())


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers packed images with ``float32[n, 4]``."""
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    count = count_of(body, content_type) if scope["path"] == PATH else 0
    status, answer = 400, b""
    if count:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        waiting.append((body, future))
        if len(waiting) == 1:
            loop.call_soon(answer_all)
        status, answer = 200, (await future)[: 16 * count]
    headers = [(b"content-type", OCTETS.encode()), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
