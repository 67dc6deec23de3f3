"""HTTP of one worker, without TorchServe's frontend in between.

Every worker listens on a socket of the front door (SO_REUSEPORT: the kernel spreads the
connections), and on a Unix socket of its own for the edge. A batch is whatever has arrived when
the worker is free, so an idle worker answers at once and batches grow with the load. The service
is the one behind TorchServe: a request means the same on both ports.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO

from diagonalflip.errors import MethodNotAllowed, ModelNotFound
from diagonalflip.message import Request, Response, refusal, v2_paths, verbs
from diagonalflip.wire import JSON
from worker.batch import Service
from worker.listener import Door, HttpServer
from worker.metrics import EDGE, FRONT, Metrics

CALLS = ("GET", "HEAD", "POST", "PUT")
PROBES = ("GET", "HEAD")
"""Methods of what is asked, and of what is only looked at."""

NUMBER = struct.Struct("!H")
NOT_READY, DRAIN = b"n", b"d"
"""What the supervisor says to a worker: that no client is to be sent here; and to let them go."""


class WorkerServer(HttpServer):
    """The HTTP of one worker.

    Args:
        service: Understands and answers; called in the event loop's thread.
        model, version: What the paths name.
        line: To the supervisor, which says ``NOT_READY`` and ``DRAIN``; closed after the latter.
        metrics: Takes what happens.

    Attributes:
        pages: Answers that are known, by path.
    """

    def __init__(
        self,
        service: Service,
        model: str,
        version: str,
        line: socket.socket,
        metrics: Metrics,
    ) -> None:
        super().__init__(service, metrics)
        self._line = line
        self._model = model
        self._verbs = verbs(model, version)
        self.pages = {"/v2/health/live": Response(b'{"live": true}', JSON)}
        self._health = {"/ping", "/v2/health/ready"}
        self._health |= {path for path, told in v2_paths(model, version).items() if told == "ready"}
        self._ready = True
        self._leaving: asyncio.Task[None] | None = None

    async def serve(self, doors: Sequence[Door], opened: Callable[[], None]) -> None:
        """Serves, as the supervisor says."""
        with self._line:
            asyncio.get_running_loop().add_reader(self._line, self._obey)
            await super().serve(doors, opened)

    def route(self, method: str, path: str, headers: dict[str, str]) -> Request | Response:
        """A request for the service, less its body, or the known answer."""
        verb = self._verbs.get(path)
        if verb is not None:
            return Request(verb, headers) if method in CALLS else unserved(method, CALLS)
        if path == "/status" and path not in self.pages:  # at most once a second
            self.pages[path] = self._status()
        if path not in self._health and path not in self.pages:
            return refusal(ModelNotFound(path[:100], f"/predictions/{self._model}"))
        if method not in PROBES:
            return unserved(method, PROBES)
        if path in self.pages:
            return self.pages[path]
        if self._ready:
            return Response(b'{"status": "Healthy", "ready": true}', JSON)
        stopping, later = b'{"status": "Stopping", "ready": false}', {"retry-after": "1"}
        return Response(stopping, JSON, HTTPStatus.SERVICE_UNAVAILABLE, later)

    def tick(self) -> None:
        """Publishes what was measured."""
        if self.guard is not None:
            self.guard.follow()
        metrics = self.metrics
        metrics.fold()
        metrics.held_bytes = self.batcher.held_bytes
        metrics.queued_images = self.batcher.queued_images
        metrics.connections = Counter(dict.fromkeys((FRONT, EDGE), 0))
        metrics.connections.update(connection.door for connection in self.connections)
        metrics.publish()
        self.pages.pop("/status", None)

    def _status(self) -> Response:
        """What every worker last published of itself, for people."""
        told = {"ready": self._ready, "workers": self.metrics.everyone()}
        return Response(json.dumps(told).encode(), JSON)

    def _obey(self) -> None:
        self._ready = False
        if self._line.recv(1) != NOT_READY:  # or the supervisor is gone
            asyncio.get_running_loop().remove_reader(self._line)
            self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        await self.drain()
        for watcher in self.metrics.watchers:
            watcher.close()
        self._line.close()


def unserved(method: str, allowed: Sequence[str]) -> Response:
    """What OPTIONS is answered, or another method than those of a path."""
    headers = {"allow": ", ".join([*allowed, "OPTIONS"])}
    if method == "OPTIONS":
        return Response(b"", "", headers=headers)
    return refusal(MethodNotAllowed(method[:20], headers["allow"]), headers)


def take_doors(folder: Path, number: int) -> tuple[list[socket.socket], socket.socket]:
    """The sockets of front door and edge that are worker ``number``'s, and a line to their owner.

    Raises:
        OSError: There is no supervisor.
    """
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(front_socket(folder)))
    line.sendall(NUMBER.pack(number))
    _, descriptors, _, _ = socket.recv_fds(line, 1, 2)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors], line


def front_socket(folder: Path) -> Path:
    """Where workers ask the supervisor for the front door."""
    return folder / "front.sock"


def proof_socket(folder: Path, number: int) -> Path:
    """Where worker ``number``, from 0, listens for the supervisor, answered before all others."""
    return folder / f"proof-{number}.sock"


def metrics_file(folder: Path, number: int) -> Path:
    """Where it publishes its metrics, in JSON."""
    return folder / f"worker-{number}.metrics"


def fault_file(folder: Path) -> Path:
    """Where a worker says why it cannot serve, before it ends: a fault of the archive."""
    return folder / "fault"


def take_number(folder: Path, workers: int) -> tuple[int, IO[str]]:
    """The first number that no living worker has, and its lock to hold.

    Raises:
        OSError: All ``workers`` have one.
    """
    for number in range(workers):
        lock = (folder / f"worker-{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return number, lock
    raise OSError(f"{workers} workers are there already")
