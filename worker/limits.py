"""How much, and how long, clients may take of a worker.

Its memory is bounded by these, under every mixture of requests: Python and ONNX Runtime (0.1 GiB;
with PyTorch, for a GPU, 0.4), ``HELD_BYTES``, the answers of one batch (40 MiB), one body and what
it is while it is read (150 MiB at most, of JSON), and the heads and objects of all connections
(100 MiB, with TLS 270): below 1.25 GiB. tests/integration/test_overload.py tries, and finds 0.7.
"""

from __future__ import annotations

import resource

from diagonalflip.wire import MAX_CONNECTIONS

MAX_HEAD_BYTES = 1 << 14
"""Of a request: its target and headers."""

BATCH_REQUESTS = 128
"""Answered as soon as so many wait: what was read of them is still in the processor's cache."""

BATCH_IMAGES = 1 << 18
"""Predictions of a batch at most, beside one heavy request."""

HEAVY_IMAGES = 1 << 17
"""A request that may be more than this is heavy: a batch takes one, so that others wait for one."""

QUEUED_IMAGES = 1 << 26
"""Predictions that may wait, seconds of work; a request beyond is answered 503, undecoded."""

HELD_BYTES = 1 << 28
"""Bodies, and answers that clients have not read, at most; what comes then is answered 503."""

UNSENT_BYTES = 1 << 15
"""Answers that a client has not read, until they are counted and it is not listened to."""

CONNECTIONS_OF_AN_ADDRESS = 2048
"""At the edge, half of all: no single client can take every connection."""

REFUSALS_LOGGED = 10
"""In a second; those for want of a token are anybody's to cause."""

HANDSHAKE_S = 10.0
IDLE_S = 75.0
REQUEST_S = 60.0
"""From a request's first byte to its last: a client slower than that is answered 408."""

STALLED_S = 60.0
READ_BYTES_PER_S = 1 << 16
"""A client has ``STALLED_S``, and at this rate more, to read what did not leave at once."""

DEAF_S = 10.0
"""Without reading a byte, while memory is short: others have better use for it."""

DRAIN_IDLE_S = 1.0
"""For the next request of a connection that a stopping worker will answer; then it is closed."""

LINGER_S = 5.0
"""For a refused client to read why: closing at once could reset the connection before."""

SPARE_FILES = 100
"""That a worker opens beside its connections."""


def patience_s(unsent: int, finished: bool, in_request: bool, leaving: bool) -> float:
    """How long a client may take: to read, to go, to send a request, or to begin one."""
    if unsent:
        return STALLED_S + unsent / READ_BYTES_PER_S
    if finished:
        return LINGER_S
    if in_request:
        return REQUEST_S
    return DRAIN_IDLE_S if leaving else IDLE_S


def most_connections() -> int:
    """``MAX_CONNECTIONS``, or as many as open files are allowed for."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, allowed - SPARE_FILES)
