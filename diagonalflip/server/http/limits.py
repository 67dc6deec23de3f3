"""Limits of memory and time that a worker grants to clients.

They bound its memory under any mixture of requests: Python and ONNX Runtime (0.1 GiB),
``BUFFERED_BYTES``, the responses of one batch (40 MiB), one body while it is decoded (at most
150 MiB, for JSON), and heads, objects and buffers of all connections (100 MiB, with TLS 380): less
than 1 GiB in all. PyTorch, for a GPU, takes 0.3 GiB more. tests/integration/test_overload.py
measures 0.55 GiB.
"""

from __future__ import annotations

import resource

from diagonalflip.wire import MAX_CONNECTIONS

MAX_HEAD_BYTES = 1 << 14
"""Longest head of a request: its target and headers."""

IGNORED_BODY_BYTES = 1 << 16
"""Longest body of a rejected request that is read and ignored, to keep its connection open."""

PIPELINED_REQUESTS = 256
"""Requests of one connection that may wait behind the one that is being answered."""

BATCH_REQUESTS = 128
"""Maximum requests per batch: a larger batch would not fit into the processor's cache."""

BATCH_IMAGES = 1 << 18
"""Maximum predictions per batch, besides one heavy request."""

HEAVY_IMAGES = 1 << 17
"""Predictions beyond which a request is heavy. A batch takes one of these at most, so a light
request waits for no more than one."""

QUEUED_IMAGES = 1 << 26
"""Maximum predictions that wait: seconds of work. A request beyond is answered 503, undecoded."""

BUFFERED_BYTES = 1 << 28
"""Maximum bytes of bodies and unread responses per worker, shared by its listeners; requests
beyond are answered 503 (shares.py)."""

UNSENT_BYTES = 1 << 15
"""Unread bytes beyond which a client's responses count as buffered, and reading from it stops."""

JOINED_BYTES = 1 << 12
"""Longest body that is copied to be sent in one piece with its head, which is faster."""

REJECTIONS_LOGGED = 10
"""Per second: anybody can cause rejections, so their log is bounded."""

HANDSHAKE_S = 10.0
IDLE_S = 75.0
"""Longest time between two requests of a connection; a worker sets it to
``FLIP_IDLE_TIMEOUT_S``."""

REQUEST_S = 60.0
"""From a request's first byte to its last; extended while a body arrives at ``BYTES_PER_S``. A
slower client is answered 408."""

READ_S = 60.0
BYTES_PER_S = 1 << 16
"""A client has ``READ_S`` to read a response, plus the time that its size takes at this rate."""

STALLED_S = 10.0
"""Longest time that a client may read nothing while memory is short; then its connection ends."""

DRAIN_IDLE_S = 1.0
"""How long a stopping worker waits for the next request of an idle connection."""

DRAIN_POLL_S = 0.02
"""How often a stopping worker looks whether all clients are answered."""

LINGER_S = 5.0
"""Time for a rejected client to read the response: closing at once could reset the connection
before that. Extended while the client sends at ``BYTES_PER_S``: many read only after sending."""

IGNORED_BYTES = 1 << 28
"""Most bytes that a rejected client may send."""

SPARE_FILES = 100
"""Files that a worker opens besides its connections."""

EXCESS_CONNECTIONS = 50
"""Connections above the limit that are answered 503; their files are of the spare ones. Further
connections are closed at once."""


def most_connections() -> int:
    """Return ``MAX_CONNECTIONS``, or fewer if the limit of open files is low."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(allowed - SPARE_FILES, allowed // 2))
