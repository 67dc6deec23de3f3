"""Ports that are picked for a server which opens them later."""

from __future__ import annotations

import socket

import pytest

from diagonalflip.errors import SettingError
from supervisor.ports import free_ports, resolve
from supervisor.settings import Settings
from worker.listener import listen


def test_a_picked_port_is_no_outgoing_connections() -> None:
    assert all(1_024 < free_ports() < 32_768 for _ in range(200))


def test_picked_ports_are_free_in_a_row() -> None:
    first = free_ports(8)
    for port in range(first, first + 8):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_an_address_that_is_not_here_is_refused() -> None:
    with pytest.raises(OSError, match="assign"):
        free_ports(1, "192.0.2.1")


def test_a_crash_does_not_keep_the_next_start_from_its_port() -> None:
    """A client that goes on holds its connection half open, a minute long on Linux."""
    with listen(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        client = socket.create_connection(address)
        listener.setblocking(True)
        listener.accept()[0].close()
    with client:
        ports = dict.fromkeys(map(str.upper, Settings.ports()), "0") | {"PORT": str(address[1])}
        assert resolve(Settings.from_environment(ports)).port == address[1]
        listen(address).close()


def test_a_port_that_somebody_listens_on_is_refused() -> None:
    with listen(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ports = dict.fromkeys(map(str.upper, Settings.ports()), "0") | {"PORT": port}
        with pytest.raises(SettingError, match=f"PORT={port}: .*\\. Expected a free port"):
            resolve(Settings.from_environment(ports))
