"""HTTP straight into a worker: the wire contract without TorchServe's frontend in between.

Every worker listens on the same port (SO_REUSEPORT: the kernel spreads the connections). A
batch is whatever has arrived when the worker is free, so an idle worker answers at once and
batches grow with the load. The handler is the one that TorchServe calls: a request means
the same on both ports.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache

import uvloop

from diagonalflip.errors import MethodNotAllowed, ModelNotFound
from server.batch import COUNTERS, Answer, Batcher, Item
from server.connection import Connection, text

READ, PROBE = frozenset({b"GET", b"HEAD", b"POST"}), frozenset({b"GET", b"HEAD"})


class DirectServer:
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
        self.batcher = Batcher(answer)
        self.connections: set[Connection] = set()
        self._model = model
        self._report = report
        self._date = ""
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

    async def serve(self, host: str, port: int, opened: Callable[[], None]) -> None:
        """Serves for ever; calls ``opened`` once the port is open.

        Raises:
            OSError: The port cannot be opened.
        """
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), sock=listener, backlog=2048
            )
            self._tick()
            opened()
            await server.serve_forever()

    def route(self, item: Item, method: bytes, path: bytes) -> bytes | None:
        """The known answer of a probe; None for a request to the handler.

        Raises:
            ModelNotFound: Nothing is served at ``path``.
            MethodNotAllowed: Not in this way.
        """
        explain = self._predicting.get(path)
        probe = self._probes.get(path)
        if explain is None and probe is None:
            raise ModelNotFound(text(path[:100]), f"/predictions/{self._model}")
        allowed = READ if probe is None else PROBE
        if method not in allowed:
            item.response_headers["allow"] = ", ".join(sorted(map(text, allowed)))
            raise MethodNotAllowed(text(method), item.response_headers["allow"])
        if probe is not None:
            item.response_headers["content-type"] = "application/json"
            return json.dumps(probe).encode()
        if explain:
            item.headers["explain"] = "True"  # as TorchServe marks it for the handler
        else:
            item.headers.pop("explain", None)
        return None

    def head(self, item: Item, length: int, *, keep: bool) -> bytes:
        """Status line and headers of an answer."""
        lines = [_status_line(item.status, item.phrase), self._date, f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in item.response_headers.items()]
        if not keep:
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def _tick(self) -> None:
        """Every second: the date, connections whose time is over, and counters."""
        loop = asyncio.get_running_loop()
        self._date = f"date: {formatdate(usegmt=True)}"
        now = loop.time()
        for connection in list(self.connections):
            if connection.deadline is not None and connection.deadline < now:
                connection.expire()
        counts = self.batcher.counts
        if counts["direct_requests"]:
            self.batcher.counts = dict.fromkeys(COUNTERS, 0.0)
            self._report(counts)
        loop.call_later(1.0, self._tick)


def run(server: DirectServer, host: str, port: int, opened: Callable[[], None]) -> None:
    """``server.serve`` on an event loop of its own."""
    uvloop.run(server.serve(host, port, opened))


@lru_cache(maxsize=256)
def _status_line(status: int, phrase: str) -> str:
    return f"HTTP/1.1 {status} {phrase}"
