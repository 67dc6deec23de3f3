"""How long a client may take: to read, to leave, to send a request, or to begin one."""

from __future__ import annotations

import resource
from math import inf
from time import perf_counter
from typing import Any
from unittest.mock import MagicMock

import pytest

from diagonalflip.server.http import limits
from diagonalflip.server.http.connection import Connection
from diagonalflip.server.http.shares import Share


@pytest.mark.parametrize(
    ("unsent", "state", "seconds"),
    [
        (1 << 24, {"served"}, 60 + 256),  # a slow reader of 16 MiB, at 64 KiB/s
        (1, {"finished", "in request", "served", "leaving"}, 60),
        (0, {"finished"}, 5),
        (0, {"in request", "served"}, 60),
        (0, {"served", "leaving"}, inf),
        (0, set(), 75),
        (0, {"leaving"}, 1),
    ],
)
def test_each_wait_has_its_time(unsent: int, state: set[str], seconds: float) -> None:
    server: Any = MagicMock(draining="leaving" in state)
    connection = Connection(server, MagicMock(share=Share()))
    connection._transport = MagicMock(get_write_buffer_size=lambda: unsent)
    connection._paused, connection.finished = unsent > 0, "finished" in state
    connection._parser.is_awaited = "in request" in state
    connection._is_served = "served" in state
    before = perf_counter()
    connection.expect()
    assert seconds <= connection.deadline - before <= seconds + 1


@pytest.mark.parametrize(
    ("allowed", "most"), [(64, 32), (150, 75), (1024, 924), (1 << 16, 4096), (-1, 4096)]
)
def test_clients_are_served_however_few_files_are_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int
) -> None:
    """With less than there are to spare, a service that said it was ready rejected everybody."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    assert limits.most_connections() == most
