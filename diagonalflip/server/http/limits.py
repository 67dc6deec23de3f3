"""Limits of memory and time that a worker grants to clients.

Its memory is bounded by these, under every mixture of requests: Python and ONNX Runtime (0.1 GiB),
``BUFFERED_BYTES``, the answers of one batch (40 MiB), one body and what it is while it is read (at
most 150 MiB, of JSON), and heads, objects and buffers of all connections (100 MiB, with TLS 380):
below 1 GiB. PyTorch, for a GPU, takes 0.3 GiB more. tests/integration/test_overload.py tries:
0.55 GiB.
"""

from __future__ import annotations

import resource

from diagonalflip.wire import MAX_CONNECTIONS

MAX_HEAD_BYTES = 1 << 14
"""Longest head of a request: its target and headers."""

IGNORED_BODY_BYTES = 1 << 16
"""Longest body that is read and ignored, so that the connection of a rejected head goes on."""

PIPELINED_REQUESTS = 256
"""Requests of one connection that may wait behind the one that is being answered."""

BATCH_REQUESTS = 128
"""Maximum requests per batch: a larger one would no longer fit into the processor's cache."""

BATCH_IMAGES = 1 << 18
"""Maximum predictions per batch, besides one heavy request."""

HEAVY_IMAGES = 1 << 17
"""Predictions beyond which a request is heavy. A batch takes one, so others wait for one."""

QUEUED_IMAGES = 1 << 26
"""Maximum predictions that wait: seconds of work. A request beyond is answered 503, undecoded."""

BUFFERED_BYTES = 1 << 28
"""Maximum bytes of bodies and unread answers per worker, shared by its listeners; requests
beyond are answered 503 (shares.py)."""

UNSENT_BYTES = 1 << 15
"""Unread bytes from which a client's answers are counted, and no more is read from it."""

REJECTIONS_LOGGED = 10
"""Per second: anybody can cause rejections, so the log is bounded."""

HANDSHAKE_S = 10.0
IDLE_S = 75.0
"""Time for the next request of a connection; a worker sets it to ``FLIP_IDLE_TIMEOUT_S``."""

REQUEST_S = 60.0
"""From a request's first byte to its last, and again if a body has come at ``BYTES_PER_S``; a
slower client is answered 408."""

READ_S = 60.0
BYTES_PER_S = 1 << 16
"""A client has ``READ_S`` to read an answer, plus the time that its size takes at this rate."""

STALLED_S = 10.0
"""Longest time without reading a byte while memory is short; then the connection ends."""

DRAIN_IDLE_S = 1.0
"""Longest wait of a stopping worker for the next request of an idle connection."""

LINGER_S = 5.0
"""Time for a rejected client to read why: closing at once could reset the connection first. It is
granted again if the client has gone on sending at ``BYTES_PER_S``: many read when all is sent."""

IGNORED_BYTES = 1 << 28
"""Most that such a client may send."""

SPARE_FILES = 100
"""That a worker opens beside its connections."""

TOLD_FILES = 50
"""Of these, for clients beyond the connections, who are told so; more are closed at once."""


def most_connections() -> int:
    """``MAX_CONNECTIONS``, or as many as open files are allowed for; some in any case."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(allowed - SPARE_FILES, allowed // 2))
