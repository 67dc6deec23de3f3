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
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from diagonalflip.errors import MethodNotAllowed, ModelNotFound
from diagonalflip.message import Request, Response, Verb, refusal, v2_paths, verbs
from diagonalflip.wire import JSON, MODEL
from worker.guard import Guard
from worker.listener import Door, HttpServer
from worker.metrics import EDGE, FRONT, Metrics
from worker.models import WANTED, Served, fulfil

logger = logging.getLogger(__name__)

CALLS = ("GET", "HEAD", "POST", "PUT")
PROBES = ("GET", "HEAD")
"""Methods of what is asked, and of what is only looked at."""

NUMBER = struct.Struct("!H")
NOT_READY, DRAIN, MODELS = b"n", b"d", b"m"
"""Messages of the supervisor to a worker: report not ready; drain; serve other versions."""


class WorkerServer(HttpServer):
    """The HTTP of one worker.

    Args:
        served: The versions of the model; their services are called in the event loop's thread.
        folder: Of the sockets; there the supervisor writes which versions it wants.
        line: To the supervisor, which says ``NOT_READY``, ``DRAIN`` and ``MODELS``; closed after
            the second.
        metrics: Takes what happens.
        pages: Answers that are known, by path.
        guard: Of the edge, if there is one.

    Attributes:
        served: As given, or as wanted since.
    """

    def __init__(  # noqa: PLR0913 - what a worker has
        self,
        served: Served,
        folder: Path,
        line: socket.socket,
        metrics: Metrics,
        *,
        pages: Mapping[str, Response],
        guard: Guard | None = None,
    ) -> None:
        super().__init__(metrics, guard)
        self._folder, self._line = folder, line
        self._known = {"/v2/health/live": Response(b'{"live": true}', JSON), **pages}
        self._ready = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self.show(served)

    def show(self, served: Served) -> None:
        """Serve these versions from the next request on; those under way are answered as before."""
        self.served = served
        self._canary = served.services.get(served.canary or "")
        self._turn = 0
        self._verbs: dict[str, tuple[Verb, Any]] = {}
        self._pages = dict(self._known)
        self._health = {"/ping", "/v2/health/ready"}
        described: set[str] = set()
        for name in ("", *served.services):
            version = name or served.default
            service = served.services[version]
            answers = None if not name and self._canary is not None else service
            self._verbs |= {path: (verb, answers) for path, verb in verbs(name).items()}
            others = [each for each in served.services if each != version]
            documents = service.documents([version, *others])
            described |= v2_paths(name).keys()
            for path, what in v2_paths(name).items():
                if what == "ready":
                    self._health.add(path)
                else:
                    self._pages.setdefault(path, Response(documents[what], JSON))
            self._pages.setdefault("/weights.json", Response(documents["weights"], JSON))
        if self.guard is not None:
            self.guard.paths = self._verbs.keys() | described

    async def serve(self, doors: Sequence[Door], opened: Callable[[], None]) -> None:
        """Serves, as the supervisor says."""
        with self._line:
            asyncio.get_running_loop().add_reader(self._line, self._obey)
            await super().serve(doors, opened)

    def route(self, method: str, path: str, headers: dict[str, str]) -> Request | Response:
        """A request with its service, less its body; or the known answer."""
        known = self._verbs.get(path)
        if known is not None:
            verb, service = known
            request = Request(verb, headers, service=service or self._chosen())
            return request if method in CALLS else unserved(method, CALLS)
        if path == "/status" and path not in self._pages:  # at most once a second
            self._pages[path] = self._status()
        if path not in self._health and path not in self._pages:
            return refusal(ModelNotFound(f"path {path[:100]}", f"/predictions/{MODEL}"))
        if method not in PROBES:
            return unserved(method, PROBES)
        if path in self._pages:
            return self._pages[path]
        if self._ready:
            return Response(b'{"status": "Healthy", "ready": true}', JSON)
        stopping, later = b'{"status": "Stopping", "ready": false}', {"retry-after": "1"}
        return Response(stopping, JSON, HTTPStatus.SERVICE_UNAVAILABLE, later)

    def _chosen(self) -> Any:
        """The canary in its share of turns, evenly spread, else the default version."""
        before, self._turn = self._turn, (self._turn + self.served.percent) % 100
        is_turn = self._turn < before or self.served.percent == 100
        return self._canary if is_turn else self.served.services[self.served.default]

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
        self._pages.pop("/status", None)

    def _status(self) -> Response:
        """Status of every worker, for people."""
        told = {"ready": self._ready, "workers": self.metrics.everyone()}
        return Response(json.dumps(told).encode(), JSON)

    def _obey(self) -> None:
        told = self._line.recv(1)
        if told == MODELS:
            self._start(self._change())
            return
        self._ready = False
        if told != NOT_READY:  # or the supervisor is gone
            asyncio.get_running_loop().remove_reader(self._line)
            self._start(self._leave())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _change(self) -> None:
        """Serve what the supervisor wants; publish that, or what was wrong with it."""
        async with self._changing:
            wish = json.loads((self._folder / WANTED).read_bytes())
            fault = ""
            try:
                self.show(await asyncio.to_thread(fulfil, wish, self.served))
            except Exception as error:
                logger.exception("the wanted versions cannot be served")
                fault = f"{type(error).__name__}: {error}"
            self.metrics.models = {"revision": wish["revision"], "fault": fault}
            self.metrics.publish()

    async def _leave(self) -> None:
        await self.drain()
        for watcher in self.metrics.watchers:
            watcher.close()
        self._line.close()


def unserved(method: str, allowed: Sequence[str]) -> Response:
    """Return the answer to OPTIONS, or to a method that a path does not allow."""
    headers = {"allow": ", ".join([*allowed, "OPTIONS"])}
    if method == "OPTIONS":
        return Response(b"", "", headers=headers)
    return refusal(MethodNotAllowed(f"method {method[:20]}", headers["allow"]), headers)


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
    """Path of the socket at which workers ask for the sockets of the doors."""
    return folder / "front.sock"


def proof_socket(folder: Path, number: int) -> Path:
    """Path of the socket at which worker ``number``, from 0, answers proofs before all else."""
    return folder / f"proof-{number}.sock"


def metrics_file(folder: Path, number: int) -> Path:
    """Path of the file to which a worker publishes its metrics, in JSON."""
    return folder / f"worker-{number}.metrics"


def fault_file(folder: Path) -> Path:
    """Path of the file to which a worker writes why it cannot serve its archive."""
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
