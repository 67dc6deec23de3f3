"""The process behind each of TorchServe's workers: a loaded model, and the ports it answers on.

TorchServe's frontend starts ``ts/model_service_worker.py``; supervisor/torchserve.py puts this
program in its place. What a handler sees is the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from diagonalflip.errors import DiagonalFlipError, ModelNotFound
from diagonalflip.message import Request, Response, Verb, refusal
from diagonalflip.wire import MODEL
from worker import frames, frontend, limits
from worker.batch import FAULT
from worker.frames import DisconnectedError, Frame, FrameReader
from worker.guard import Guard
from worker.listener import Door, listen
from worker.loader import model_loader
from worker.metrics import EDGE, FRONT, PROOF, TORCHSERVE, Entry, Metrics
from worker.models import WANTED, Served, fulfil, packed_model
from worker.pages import pages
from worker.routes import (
    WorkerServer,
    fault_file,
    metrics_file,
    proof_socket,
    take_doors,
    take_number,
)
from worker.watchers import watchers

COLLECT_AFTER = 50_000
"""New objects until the cycle collector looks; a request in flight has about ten."""

WITHDRAWN = ModelNotFound("the version was unloaded", f"another version of {MODEL}")
NO_REQUEST = Request(Verb.PREDICT, {})
"""For metrics, of what was refused before it was one."""

logger = logging.getLogger(__name__)


class Worker:
    """A loaded model and the ports it answers on; batches of both take turns.

    Args:
        connection: To TorchServe's frontend.
        metrics: TorchServe's cache of metrics, which prints them for the frontend to read.
    """

    def __init__(self, connection: socket.socket, metrics: Any) -> None:
        self._connection = connection
        self._version = ""
        self._number: tuple[int, IO[str]] | None = None
        self._metrics = metrics
        self._reader = FrameReader(connection)
        self._service: Any = None
        self._http: WorkerServer | None = None

    def serve(self) -> None:
        """Loads the model that the frontend names, then answers batches.

        Raises:
            DisconnectedError: The frontend has closed the connection.
            ValueError: It sent something else.
        """
        while True:
            command = self._reader.take(1)
            if command == b"L":
                self._load()
                frames.write_loaded(self._connection)
            elif command == b"I" and self._service is not None:
                self._answer_frontend(frames.read_batch(self._reader))
            else:
                raise ValueError(f"command {command!r}")

    def _load(self) -> None:
        """Reads a load command and has TorchServe's own loader load the archive."""
        reader = self._reader
        name, folder = reader.text(), reader.text()
        batch_size = reader.number()
        handler = reader.text()
        gpu = max(reader.number(), 0)
        reader.text()  # an envelope, which we have none of
        reader.take(1)  # whether Pillow's limit holds; the handler sees to it
        self._metrics.model_name = name
        logger.info("model_name: %s, batchSize: %d", name, batch_size)
        if "FLIP_SOCKETS" in os.environ:
            self._version = packed_model(Path(folder))["modelVersion"]
        if os.environ.get("FLIP_VERSION") == self._version:  # others serve TorchServe's port alone
            self._number = take_number(
                Path(os.environ["FLIP_SOCKETS"]), int(os.environ["FLIP_WORKERS"])
            )
            gpu = self._number[0]
        loaded = model_loader().load(
            *(name, folder, handler, gpu, batch_size, None, True), self._metrics
        )
        handler = loaded._entry_point.__self__  # noqa: SLF001 - the loader shows it in no other way
        self._service = handler.service
        self._understand = sys.modules[type(handler).__module__].understand
        _spare_collector()
        if self._number is not None:
            self._open_doors(self._number[0])

    def _answer_frontend(self, batch: list[Frame]) -> None:
        started = time.perf_counter()
        answered: list[Entry] = []
        frames.write_responses(self._connection, self._answered(batch, started, answered))
        finished = time.perf_counter()
        # The first id stands for all: the frontend has to parse the line.
        self._metrics.request_ids = {0: batch[0].request_id.decode()}
        self._metrics.add_time("PredictionTime", round((finished - started) * 1e3, 2))
        if self._http is not None:
            self._http.measure(answered, started, finished)

    def _answered(
        self, batch: list[Frame], started: float, answered: list[Entry]
    ) -> Iterator[tuple[Frame, Response]]:
        """The responses to a batch, computed in parts of bounded work; lists them as entries."""
        jobs: list[tuple[Frame, Any]] = []
        service = self._service
        if self._http is not None:  # the version may have been unloaded, or loaded anew
            service = self._http.served.services.get(self._version)
        for frame in batch:
            request, outcome = self._read(service, frame)
            if isinstance(outcome, Response):
                answered.append((TORCHSERVE, request, started, outcome))
                yield frame, outcome
                continue
            jobs.append((frame, outcome))
            if sum(job.weight for _, job in jobs) > limits.BATCH_IMAGES:
                yield from _answer(service, jobs, started, answered)
                jobs = []
        yield from _answer(service, jobs, started, answered)

    def _read(self, service: Any, frame: Frame) -> tuple[Request, Any]:
        try:
            request = self._understand(frame.headers, frame.inputs)
            return request, service.read(request) if service is not None else refusal(WITHDRAWN)
        except Exception:
            logger.exception("a request could not be read")
            return NO_REQUEST, refusal(FAULT)

    def _open_doors(self, number: int) -> None:
        """Opens the doors, in a thread; if that ends, the whole worker does."""
        folder = Path(os.environ["FLIP_SOCKETS"])
        rate = os.environ.get("FLIP_TOKEN_RATE")
        opened = threading.Event()

        def run() -> None:
            try:
                listeners, line = take_doors(folder, number)
                listeners.append(listen(proof_socket(folder, number)))
                names = (FRONT, EDGE, PROOF) if rate else (FRONT, PROOF)
                doors = list(map(Door, names, listeners))
                page = metrics_file(folder, number)
                metrics = Metrics(number, page, lambda: self._service.device_bytes)
                metrics.watchers = watchers(number)
                guard = Guard(folder, int(rate), "FLIP_EDGE_TLS" in os.environ) if rate else None
                wish = json.loads((folder / WANTED).read_bytes())
                served = fulfil(wish, Served({self._version: self._service}, self._version))
                metrics.models["revision"] = wish["revision"]
                self._http = WorkerServer(served, folder, line, metrics, pages=pages(), guard=guard)
                self._http.run(doors, opened.set)
            except BaseException:
                logger.exception("HTTP failed")
                os._exit(1)

        threading.Thread(target=run, name="http", daemon=True).start()
        opened.wait()


def _answer(
    service: Any, jobs: list[tuple[Frame, Any]], started: float, answered: list[Entry]
) -> Iterator[tuple[Frame, Response]]:
    responses = service.answer([job for _, job in jobs]) if jobs else []
    for (frame, job), response in zip(jobs, responses, strict=True):
        answered.append((TORCHSERVE, job.request, started, response))
        yield frame, response


def _spare_collector() -> None:
    """Keeps Python's cycle collector away from what stays, and from requests in flight.

    A full collection walks everything that was imported, for tens of milliseconds in which
    nobody is answered, and a batch of 100 requests holds enough objects to set one off.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def main() -> None:
    """Listens where TorchServe says, serves its one connection, and ends with it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sock-type", choices=["unix", "tcp"], required=True)
    parser.add_argument("--sock-name", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--metrics-config", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)

    metrics = MetricsCacheYamlImpl(arguments.metrics_config)
    metrics.initialize_cache()
    with frontend.listen(arguments.sock_name, arguments.port) as listener:
        # The frontend waits for these two lines, word for word.
        logger.info("[PID]%d", os.getpid())
        logger.info("Torch worker started.")
        connection = frontend.accept(listener)
    status = 0
    try:
        Worker(connection, metrics).serve()
    except DisconnectedError:
        logger.info("Frontend disconnected.")
    except DiagonalFlipError as error:
        logger.exception("The archive cannot be served.")
        if "FLIP_SOCKETS" in os.environ:
            told = f"{type(error).__name__}: {error}"
            fault_file(Path(os.environ["FLIP_SOCKETS"])).write_text(told, encoding="utf-8")
        status = 1
    except Exception:
        logger.exception("Backend worker process died.")
        status = 1
    if arguments.sock_name is not None:
        arguments.sock_name.unlink(missing_ok=True)
    # At once: the interpreter's end could crash or hang in the thread of HTTP.
    os._exit(status)


if __name__ == "__main__":
    main()
