"""The socket on which a worker waits for TorchServe's frontend."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

ACCEPT_TIMEOUT_S = 30.0

TCP_TABLE = Path("/proc/net/tcp")

logger = logging.getLogger(__name__)


def listen(path: Path | None, port: int) -> socket.socket:
    """Opens a Unix socket at ``path``; without a path, ``port`` of loopback.

    TorchServe asks for the latter where its Java cannot load netty's native library: on macOS
    on ARM, or if the temporary folder is mounted with noexec.
    """
    if path is None:
        return socket.create_server(("127.0.0.1", port), backlog=1)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    """Returns the frontend's connection.

    Whoever is connected can have code run, and loopback is open to every user of a host. So
    on TCP only processes of this worker's own user are let in.

    Raises:
        TimeoutError: The frontend did not connect.
    """
    listener.settimeout(ACCEPT_TIMEOUT_S)
    while True:
        connection, peer = listener.accept()
        if listener.family == socket.AF_UNIX or _owner(peer, listener) in (os.getuid(), None):
            connection.setblocking(True)
            return connection
        logger.warning("a process of another user connected: turned away")
        connection.close()


def _owner(peer: tuple[str, int], listener: socket.socket) -> int | None:
    """The user whose process connected (proc(5), net/tcp); None where no kernel tells it."""
    if not TCP_TABLE.exists():
        return None
    ends = [
        f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
        for host, port in (peer, listener.getsockname())
    ]
    for line in TCP_TABLE.read_text().splitlines():
        fields = line.split()
        if fields[1:3] == ends:
            return int(fields[7])
    return -1  # it has gone already
