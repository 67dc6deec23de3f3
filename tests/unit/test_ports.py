"""Ports that are picked for a server which opens them later."""

from __future__ import annotations

import socket

import pytest

from supervisor.ports import free_ports


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
