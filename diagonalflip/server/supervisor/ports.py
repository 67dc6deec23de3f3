"""Ports: sockets for our own, and free numbers for TorchServe's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import socket
import struct
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from diagonalflip._loopback import is_loopback
from diagonalflip.errors import SettingError, StartError
from diagonalflip.server.http.hosts import read_names
from diagonalflip.server.settings import HOSTS, LOOPBACK, Settings, variable

BACKLOG = 2048

SO_ATTACH_FILTER = 26
"""From Linux's asm-generic/socket.h; Python does not define it."""

DROP_SYN = struct.pack(
    "=" + 4 * "HBBI",
    *(0x30, 0, 0, 13),  # load the flags of the TCP header,
    *(0x45, 0, 1, 0x02),  # and if SYN is among them,
    *(0x06, 0, 0, 0),  # drop the segment,
    *(0x06, 0, 0, 0xFFFFFFFF),  # else keep all of it
)
"""A program of the classic Berkeley packet filter (Linux: networking/filter)."""


def open_ports(settings: Settings) -> tuple[Settings, dict[str, socket.socket]]:
    """Listen on all our ports; for port 0, on a free one.

    Returns:
        The settings with the chosen ports, and the sockets by the ports' names.

    Raises:
        StartError: A port is taken, or its address is not this host's.
    """
    names = ["port", "admin_port"] + ["public_port"] * (settings.tokens_file is not None)
    listeners = {}
    for name in names:
        try:
            listeners[name] = listen((settings.host_of(name), getattr(settings, name)))
        except OSError as error:
            raise _cannot_listen(name, settings, error) from error
    numbers: dict[str, Any] = {name: each.getsockname()[1] for name, each in listeners.items()}
    return replace(settings, **numbers), listeners


def require_free(names: Collection[str], settings: Settings) -> None:
    """Check that others can listen on the ports of those names; raises StartError if not."""
    for name in names:
        try:
            listen((settings.host_of(name), getattr(settings, name))).close()
        except OSError as error:
            raise _cannot_listen(name, settings, error) from error


def listen(address: tuple[str, int]) -> socket.socket:
    """Return a non-blocking socket that listens on a host and port, by IPv4 if possible."""
    # ``getaddrinfo`` keeps the zone of fe80::1%eth0, which ``bind`` would drop.
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, _, _, _, place = min(found, key=lambda each: each[0])
    listener = socket.socket(family)
    # Connections that linger after a crash must not prevent the next start.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:  # whatever the system's default is, :: takes IPv4 too
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def take_no_more(listener: socket.socket) -> None:
    """Let no further client connect; clients that have connected can still be accepted.

    A client that connects between the last ``accept`` and ``close`` would be reset after it has
    sent its request. If its SYN is dropped, it sends it again a second later, to a closed port.
    """
    program = ctypes.create_string_buffer(DROP_SYN)
    with contextlib.suppress(OSError):  # other systems cannot do this
        pointer = struct.pack("@HP", len(DROP_SYN) // 8, ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)


def require_addresses(settings: Settings) -> None:
    """Check that the configured addresses resolve.

    Raises:
        StartError: One does not.
    """
    for name in ("host", "admin_host"):
        address = getattr(settings, name)
        try:
            socket.getaddrinfo(address, None)
        except (socket.gaierror, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no host's name"
            raise StartError(
                f"{settings.told(name)} does not resolve: {reason}",
                "an address of this host, or a name of one",
                f"correct it, or unset it to listen on {LOOPBACK} only",
            ) from error


def reject_unsafe(settings: Settings) -> None:
    """Raise a SettingError for a public listener without tokens or TLS, or invalid host names."""
    read_names(settings.allowed_hosts)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingError("only one of FLIP_TLS_CERT and FLIP_TLS_KEY is set", "both or none")
    if is_loopback(settings.host):
        return
    if settings.tokens_file is None:
        raise SettingError(
            f"{settings.told('host')} without FLIP_TOKENS_FILE",
            "tokens wherever others can connect",
            "run `make token NAME=someone TOKENS_FILE=tokens`, and set FLIP_TOKENS_FILE",
        )
    if settings.tls_cert is None and not settings.plain_http:
        raise SettingError(
            f"{settings.told('host')} without FLIP_TLS_CERT and FLIP_TLS_KEY",
            "TLS wherever others can listen",
            "set both, or FLIP_PLAIN_HTTP=1 if something in front of this ends TLS",
        )


def _cannot_listen(name: str, settings: Settings, error: OSError) -> StartError:
    got = f"{settings.told(name)}: {error.strerror}"
    expected = "a free port"
    action = f"stop what listens there, or set {variable(name)} to another, 0 for any"
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL):
        address = settings.told(HOSTS[name]) if name in HOSTS else LOOPBACK
        got = f"{address} is no address of this host"
        expected = "an address that a network interface here has, fe80::1 with its %zone"
        action = "choose another address"
        if settings.host_of(name) == LOOPBACK:
            action = "127.0.0.1 needs a loopback interface with IPv4"
    elif error.errno == errno.EACCES:
        got = f"{settings.told(name)}: user {os.geteuid()} may not listen there"
        expected = "a port above 1023"
        action = f"set {variable(name)} to one, or give the service CAP_NET_BIND_SERVICE"
    return StartError(got, expected, action)


def free_ports(count: int = 1) -> int:
    """Return the first of ``count`` consecutive ports of loopback that are free now.

    Ports that systems give to outgoing connections (Linux: 32768 and up; macOS and RFC 6335: 49152
    and up) are left out: a client could get one before the server binds it.
    """
    for _ in range(1_000):
        first = 10_000 + secrets.randbelow(22_768 - count)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind((LOOPBACK, port))
            return first
    raise OSError(errno.EADDRINUSE, "no port of 127.0.0.1 is free")
