"""The operations port opens and closes with the supervisor."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from supervisor.operations import Health, serving
from supervisor.ports import free_ports


@pytest.fixture
def number() -> int:
    return free_ports()


def test_it_opens_and_ends_with_its_connections(number: int) -> None:
    threads = threading.active_count()
    port = http.client.HTTPConnection("127.0.0.1", number, timeout=30)
    with serving(Health(), ("127.0.0.1", number)):
        port.request("GET", "/v2/health/live")
        answer = port.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"live": true}')
        port.request("GET", "/v2/health/ready")
        answer = port.getresponse()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        answer.read()
    assert port.sock.recv(1) == b"", "the connection outlived the port"
    port.close()
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        port.connect()


def test_a_taken_port_is_an_error(number: int) -> None:
    threads = threading.active_count()
    port = serving(Health(), ("127.0.0.1", number))
    with socket.create_server(("127.0.0.1", number)), pytest.raises(OSError, match="in use"):
        port.__enter__()
    assert threading.active_count() == threads
