"""HTTP straight into a worker: the wire contract without TorchServe's frontend in between.

Every worker listens on the same port (SO_REUSEPORT: the kernel spreads the connections), and
on a Unix socket of its own for the edge. A batch is whatever has arrived when the worker is
free, so an idle worker answers at once and batches grow with the load. The service is the
one behind TorchServe: a request means the same on both ports.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from diagonalflip.errors import ModelNotFound
from diagonalflip.message import Request, Response, refusal, verbs
from diagonalflip.wire import JSON
from worker.batch import COUNTERS, Service
from worker.listener import PROBES, HttpServer, unserved

CALLS = ("GET", "HEAD", "POST", "PUT")


class DirectServer(HttpServer):
    """The direct port of one worker.

    Args:
        service: Understands and answers; called in the event loop's thread.
        model, version: What the paths name.
        report: Takes what was counted since it was last called, by names in ``COUNTERS``;
            at most once a second, and not while nothing happens.
    """

    def __init__(
        self,
        service: Service,
        model: str,
        version: str,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        super().__init__(service)
        self._model = model
        self._report = report
        self._verbs = verbs(model, version)
        self._probes = {
            "/ping": {"status": "Healthy"},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
        }

    def route(self, method: str, path: str, headers: dict[str, str]) -> Request | Response:
        """A request for the service, less its body, or the known answer."""
        verb = self._verbs.get(path)
        if verb is not None:
            return Request(verb, headers) if method in CALLS else unserved(method, CALLS)
        if path not in self._probes:
            return refusal(ModelNotFound(path[:100], f"/predictions/{self._model}"))
        if method not in PROBES:
            return unserved(method, PROBES)
        return Response(json.dumps(self._probes[path]).encode(), JSON)

    def tick(self) -> None:
        """Reports what was counted."""
        counts = self.batcher.counts
        if counts["direct_requests"]:
            self.batcher.counts = dict.fromkeys(COUNTERS, 0.0)
            self._report(counts)


def worker_socket(folder: Path, number: int) -> Path:
    """Where worker ``number``, from 0, listens for the edge."""
    return folder / f"worker-{number}.sock"


def proof_socket(folder: Path, number: int) -> Path:
    """Where it listens for the supervisor, whom it answers before all others."""
    return folder / f"proof-{number}.sock"


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
