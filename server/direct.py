"""HTTP straight into a worker: the wire contract without TorchServe's frontend in between.

Every worker listens on the same port (SO_REUSEPORT: the kernel spreads the connections), and
on a Unix socket of its own for the edge. A batch is whatever has arrived when the worker is
free, so an idle worker answers at once and batches grow with the load. The handler is the
one that TorchServe calls: a request means the same on both ports.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from diagonalflip.errors import ModelNotFound
from server.batch import COUNTERS, Answer, Item
from server.connection import text
from server.http import PROBE, HttpServer, allow

READ = PROBE | {b"POST"}
EXPLAIN_WEIGHT = 64
"""An explanation takes about as much longer than a prediction, for the same images."""


class DirectServer(HttpServer):
    """The direct port of one worker.

    Args:
        answer: Answers a batch; called in the event loop's thread.
        model, version: What the paths name.
        report: Takes what was counted since it was last called, by names in ``COUNTERS``;
            at most once a second, and not while nothing happens.
    """

    def __init__(
        self,
        answer: Answer,
        model: str,
        version: str,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        super().__init__(answer)
        self._model = model
        self._report = report
        self._predicting: dict[bytes, bool] = {}
        for path, explain in (("predictions", False), ("explanations", True)):
            for suffix in ("", f"/{version}"):
                self._predicting[f"/{path}/{model}{suffix}".encode()] = explain
        for suffix in ("", f"/versions/{version}"):
            self._predicting[f"/v2/models/{model}{suffix}/infer".encode()] = False
        self._probes = {
            b"/ping": {"status": "Healthy"},
            b"/v2/health/live": {"live": True},
            b"/v2/health/ready": {"ready": True},
        }

    def route(self, item: Item, method: bytes, path: bytes) -> bytes | None:
        """The known answer of a probe; None for a request to the handler."""
        explain = self._predicting.get(path)
        probe = self._probes.get(path)
        if explain is None and probe is None:
            raise ModelNotFound(text(path[:100]), f"/predictions/{self._model}")
        allow(item, method, READ if probe is None else PROBE)
        if probe is not None:
            item.response_headers["content-type"] = "application/json"
            return json.dumps(probe).encode()
        if explain:
            item.headers["explain"] = "True"  # as TorchServe marks it for the handler
            item.weight = EXPLAIN_WEIGHT
        else:
            item.headers.pop("explain", None)
        return None

    def tick(self) -> None:
        """Reports what was counted."""
        counts = self.batcher.counts
        if counts["direct_requests"]:
            self.batcher.counts = dict.fromkeys(COUNTERS, 0.0)
            self._report(counts)


def worker_socket(folder: Path, number: int) -> Path:
    """Where worker ``number``, from 0, listens for the edge."""
    return folder / f"worker-{number}.sock"


def take_socket(folder: Path, workers: int) -> tuple[int, Path, IO[str]]:
    """The number of the first socket that no living worker has, its path, and its lock to hold.

    Raises:
        OSError: All ``workers`` have one.
    """
    for number in range(workers):
        path = worker_socket(folder, number)
        lock = path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return number, path, lock
    raise OSError(f"{workers} workers are there already")
