"""One worker: holds every served version of the model, and answers clients.

The supervisor starts it with its listening sockets and a control channel
(diagonalflip/server/worker/channel.py). It exits when that channel closes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

from diagonalflip.server.http import limits
from diagonalflip.server.http.authentication import Authenticator
from diagonalflip.server.http.balance import Balance, counts
from diagonalflip.server.http.hosts import read_names
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.http.routes import Served, WorkerServer
from diagonalflip.server.http.static_files import pages
from diagonalflip.server.rotating import JsonFormatter
from diagonalflip.server.worker.channel import Channel
from diagonalflip.server.worker.loader import load
from diagonalflip.server.worker.metrics import PUBLIC, Metrics, Observer
from diagonalflip.server.worker.observers import observers

COLLECT_AFTER = 50_000
"""New objects before the cycle collector runs; a request in flight has about ten."""

FLUSH_TIMEOUT_S = 2.0
"""Longest wait for traces and logs to be written before the worker exits."""

logger = logging.getLogger("worker")


class Worker:
    """One worker, from its start to its end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._changing = asyncio.Lock()
        self._prepared: dict[int, Served] = {}  # the last one, by its number
        self._served: Served | None = None
        self._server: WorkerServer | None = None
        self._ready = True
        self._observers: list[Observer] | None = None
        self._authenticator = Authenticator(arguments.token_rate) if arguments.token_rate else None

    async def run(self) -> None:
        """Follow the supervisor's messages, until it asks the worker to drain or has exited."""
        self._channel = await Channel.open(socket.socket(fileno=self._arguments.channel))
        async with asyncio.TaskGroup() as self._tasks:
            while message := await self._channel.receive():
                name, number, content = message["message"], message["number"], message["content"]
                if name == "prepare":
                    self._tasks.create_task(self._prepare(number, content))
                elif name == "commit":
                    self._tasks.create_task(self._commit(number))
                elif name == "access" and self._authenticator is not None:
                    self._authenticator.renew(content["tokens"], content["pem"])
                elif name == "not_ready":
                    self._not_ready()
                elif name == "drain":
                    break
                elif self._server is not None:
                    self._serve(self._server, name, number, content)
            await self._leave()
            _exit(0)

    def _serve(self, server: WorkerServer, name: str, number: int, content: Any) -> None:
        if name == "check":
            server.check(lambda answers: self._channel.send("checked", answers, number=number))
        elif name == "status":
            server.workers = content

    def _not_ready(self) -> None:
        """Answer readiness probes with 503 from now on, or as soon as clients are served."""
        self._ready = False
        if self._server is not None:
            self._server.ready = False

    async def _prepare(self, number: int, desired: dict[str, Any]) -> None:
        """Load the versions that are missing; report those that cannot be loaded."""
        async with self._changing:
            if self._observers is None:  # in a thread: opening a file may take long
                log = self._arguments.number, self._arguments.access_log
                self._observers = await asyncio.to_thread(observers, *log)
            loaded = self._served.services if self._served is not None else {}
            arguments = (desired, loaded, self._arguments.number, self._arguments.workers)
            served, faults = await asyncio.to_thread(load, *arguments)
            self._prepared = {} if faults else {number: served}
        self._channel.send("prepared", faults, number=number)

    async def _commit(self, number: int) -> None:
        async with self._changing:
            self._served = self._prepared.pop(number)
            if self._server is None:
                await self._open(self._served)
            else:
                self._server.show(self._served)
        self._channel.send("committed", number=number)

    async def _open(self, served: Served) -> None:
        """Start serving clients."""
        arguments = self._arguments
        service = served.services[served.default]
        metrics = Metrics(arguments.number, lambda: service.device_bytes)
        metrics.observers = self._observers or []
        listeners = []
        for listener in arguments.listener:
            name, _, descriptor = listener.partition("=")
            sock = socket.socket(fileno=int(descriptor))
            authenticator = self._authenticator if name == PUBLIC else None
            listeners.append(Listener(name, sock, arguments.allowed_hosts, authenticator))
        limits.IDLE_S = arguments.idle_timeout_s
        self._server = WorkerServer(
            served,
            metrics,
            pages=pages(),
            balance=Balance(counts(arguments.counts), arguments.number),
            publish=lambda state: self._channel.offer("metrics", state),
        )
        self._server.ready = self._ready
        _spare_collector()
        opened = asyncio.Event()
        self._tasks.create_task(self._server.serve(listeners, opened.set))
        await opened.wait()

    async def _leave(self) -> None:
        """Answer the requests that have arrived, then have observers write what they hold."""
        self._not_ready()
        if self._server is None:
            return
        await self._server.drain()
        closing = [asyncio.to_thread(observer.close) for observer in self._server.metrics.observers]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await asyncio.gather(*closing, return_exceptions=True)


def _spare_collector() -> None:
    """Keep Python's cycle collector away from imported modules and from requests in flight.

    A full collection visits every imported object. It takes tens of milliseconds in which no
    client is answered, and a batch of 100 requests has enough objects to start one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


async def _run(arguments: argparse.Namespace) -> None:
    """Run a worker, and exit the process with it."""
    try:
        await Worker(arguments).run()
    except Exception:
        logger.exception("the worker failed")
        _exit(1)


def _exit(status: int) -> None:
    """Exit at once; a normal exit would wait for the observers' threads."""
    with contextlib.suppress(BlockingIOError):  # the supervisor does not read
        sys.stdout.flush()
    os._exit(status)


def main() -> None:
    """Serve until the control channel is closed."""
    parser = argparse.ArgumentParser(prog="python -m diagonalflip.server.worker")
    parser.add_argument("--number", type=int, required=True, help="from 0")
    parser.add_argument("--workers", type=int, required=True, help="how many there are")
    parser.add_argument("--channel", type=int, required=True, help="descriptor")
    parser.add_argument("--counts", type=int, required=True, help="descriptor")
    parser.add_argument("--listener", action="append", required=True, help="NAME=DESCRIPTOR")
    parser.add_argument("--idle-timeout-s", type=float, default=limits.IDLE_S)
    parser.add_argument("--allowed-hosts", type=read_names, default="", help="with commas")
    parser.add_argument("--token-rate", type=int, help="of the public listener")
    parser.add_argument("--access-log", type=Path, help="folder")
    parser.add_argument("--json-logs", action="store_true")
    arguments = parser.parse_args()
    # A service manager may signal every process of a service. Only the supervisor ends workers.
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    os.set_blocking(1, False)  # clients must not wait if the supervisor does not read the logs
    part, handler = f"worker {arguments.number}", logging.StreamHandler(sys.stdout)
    text = logging.Formatter(f"{part} %(levelname)s: %(message)s")
    handler.setFormatter(JsonFormatter(part) if arguments.json_logs else text)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    uvloop.run(_run(arguments))


if __name__ == "__main__":
    main()
