"""The operations port opens and closes with the supervisor."""

from __future__ import annotations

import http.client
import socket
import threading
from pathlib import Path

import pytest

from supervisor.operations import Health, serving
from supervisor.ports import free_ports
from supervisor.proof import UnixConnection


@pytest.fixture
def number() -> int:
    return free_ports()


def test_it_opens_and_ends_with_its_connections(number: int, tmp_path: Path) -> None:
    threads = threading.active_count()
    path = tmp_path / "operations.sock"
    port = http.client.HTTPConnection("127.0.0.1", number, timeout=30)
    for connection in (port, UnixConnection(path, 30)):
        with serving(Health(), [("127.0.0.1", number), path]):
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"live": true}')
            connection.request("GET", "/v2/health/ready")
            answer = connection.getresponse()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            answer.read()
        assert connection.sock.recv(1) == b"", "the connection outlived the port"
        connection.close()
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        port.connect()


def test_a_taken_port_is_an_error(number: int) -> None:
    threads = threading.active_count()
    port = serving(Health(), [("127.0.0.1", number)])
    with socket.create_server(("127.0.0.1", number)), pytest.raises(OSError, match="in use"):
        port.__enter__()
    assert threading.active_count() == threads
