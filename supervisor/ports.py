"""Ports: which are taken, and numbers for those that are left open."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
from dataclasses import replace
from typing import Any

from diagonalflip.errors import SettingError
from supervisor import host
from supervisor.settings import LOOPBACK, Settings

MOST_WORKERS = 2
"""Of those that nobody asked for: the second is worth another core and outlives the first, and
each takes 200 MiB."""


def resolve(settings: Settings) -> Settings:
    """Checks that every port is free, and picks numbers for those that are 0, and the workers.

    Raises:
        SettingError: A port is taken, or there is no GPU where one is required.
    """
    taken: dict[str, Any] = {}
    with contextlib.ExitStack() as held:
        for name in settings.ports():
            if name == "edge_port" and settings.tokens_file is None:
                continue
            address = settings.host_of(name)
            listener = held.enter_context(socket.socket(_family(address)))
            # As Java binds: what lingers of closed connections does not matter.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((address, getattr(settings, name) or free_ports(1, address)))
            except OSError as error:
                raise _cannot_listen(name, settings, error) from error
            taken[name] = listener.getsockname()[1]
    if settings.workers and not settings.require_gpu:
        return replace(settings, **taken)
    gpus = host.count_gpus()
    if settings.require_gpu and not gpus:
        raise SettingError(
            "no GPU that torch can use",
            "one, as REQUIRE_GPU=1 says",
            "start the container with --gpus all, or set REQUIRE_GPU=0 to compute on the CPU",
        )
    workers = settings.workers or gpus or min(MOST_WORKERS, host.count_cores())
    return replace(settings, workers=workers, **taken)


def _cannot_listen(name: str, settings: Settings, error: OSError) -> SettingError:
    address, port = settings.host_of(name), getattr(settings, name)
    if error.errno == errno.EADDRNOTAVAIL:
        return SettingError(
            f"{name.upper()}={address} is no address of this host",
            "an address that a network interface here has",
            "127.0.0.1 needs a loopback interface with IPv4"
            if address == LOOPBACK
            else "choose another address",
        )
    return SettingError(
        f"{name.upper()}={port}: {error.strerror}",
        "a free port",
        f"stop what listens there, or set {name.upper()} to another, 0 for any",
    )


def free_ports(count: int = 1, address: str = LOOPBACK) -> int:
    """The first of ``count`` ports in a row on ``address`` that nobody listens on now.

    None of those that systems give to outgoing connections: until its server binds it, such a
    port may be some client's (Linux: 32768 and up; macOS and RFC 6335: 49152 and up).

    Raises:
        OSError: Nothing can listen on ``address``.
    """
    for _ in range(1_000):
        first = 10_000 + secrets.randbelow(22_768 - count)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket(_family(address))).bind((address, port))
            return first
    with socket.socket(_family(address)) as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
