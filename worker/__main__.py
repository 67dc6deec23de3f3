"""The process behind each of TorchServe's workers: its protocol, read and written in bulk.

TorchServe's frontend starts ``ts/model_service_worker.py``; supervisor/torchserve.py puts this
file in its place. The protocol is the same to the byte (pytorch/serve 0.12.0:
ts/protocol/otf_message_handler.py), and so is what a handler sees, with two differences:

- Requests are read through one buffer. TorchServe's own reader makes four system calls a
  request header, which was half of the time of a worker under small requests.
- Large answers of a batch leave in frames of their own. The frontend decodes a frame in
  quadratic time: with every read of the socket it parses the frame from its start, and
  copies each finished answer again (ModelResponseDecoder.java). Four answers of 16 MiB in
  one frame took it 15 s.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import TsModelLoader

from diagonalflip.message import Response
from worker import frontend
from worker.routes import DirectServer, proof_socket, take_number, worker_socket

FRAME_BYTES = 1 << 18
"""Answers of a batch share a frame up to here: a few reads of the socket."""

FIRST_BUFFER_BYTES = 1 << 18

COLLECT_AFTER = 50_000
"""New objects until the cycle collector looks; a request in flight has about ten."""

_INT = struct.Struct("!i")
_END = _INT.pack(-1)

logger = logging.getLogger(__name__)


class DisconnectedError(Exception):
    """The frontend closed the connection: it stops, or gives this worker up."""


class Reader:
    """Reads TorchServe's commands from a socket through one buffer.

    Raises:
        DisconnectedError: By every method, at the end of the stream.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray(FIRST_BUFFER_BYTES)
        self._start = 0
        self._end = 0

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        start = self._start
        if self._end - start < length:
            self._fill(length)
            start = self._start
        self._start = start + length
        return bytes(memoryview(self._buffer)[start : start + length])

    def number(self) -> int:
        """The next 4 bytes, as a signed number."""
        start = self._start
        if self._end - start < 4:
            self._fill(4)
            start = self._start
        self._start = start + 4
        number: int = _INT.unpack_from(self._buffer, start)[0]
        return number

    def sized(self) -> bytes | None:
        """The next byte string; None for the end of a list."""
        length = self.number()
        return None if length < 0 else self.take(length)

    def text(self) -> str:
        """The next byte string, decoded."""
        return (self.sized() or b"").decode()

    def _fill(self, length: int) -> None:
        """Reads until ``length`` bytes are there, and whatever else has arrived with them."""
        rest = self._buffer[self._start : self._end]
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        elif len(self._buffer) > FIRST_BUFFER_BYTES >= length:
            self._buffer = bytearray(FIRST_BUFFER_BYTES)  # a large request is no reason to keep it
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        view = memoryview(self._buffer)
        while self._end < length:
            count = self._socket.recv_into(view[self._end :])
            if not count:
                raise DisconnectedError
            self._end += count


@dataclass(slots=True)
class Frame:
    """One request as the frontend passes it on.

    Attributes:
        request_id: The frontend's own.
        headers: In the client's spelling; of each input its content type, as a dict.
        inputs: ``body``, or the named inputs of a query, a form or a gRPC request.
    """

    request_id: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, bytes] = field(default_factory=dict)


def read_batch(reader: Reader) -> list[Frame]:
    """Reads a prediction command behind its first byte: the requests of one batch."""
    frames: list[Frame] = []
    while (request_id := reader.sized()) is not None:
        frame = Frame(request_id)
        while (name := reader.sized()) is not None:
            frame.headers[_text(name)] = (reader.sized() or b"").decode("utf-8", "replace")
        while (name := reader.sized()) is not None:
            kind = {"content-type": _text(reader.sized() or b"")}
            frame.headers[_text(name)] = kind
            frame.inputs[_text(name)] = reader.sized() or b""
        frames.append(frame)
    return frames


def write_replies(
    connection: socket.socket, frames: Sequence[Frame], responses: Sequence[Response]
) -> None:
    """Sends the answers of one batch, in as many frames as keeps the frontend quick.

    Every frame but the last also holds an empty piece of one answer, the carrier, marked as
    streaming: that tells the frontend that the batch goes on (BatchAggregator.java).
    """
    answers = [(each.request_id, answer) for each, answer in zip(frames, responses, strict=True)]
    if sum(len(answer.body) for _, answer in answers) > FRAME_BYTES and len(answers) > 1:
        *order, carrier = sorted(answers, key=lambda each: len(each[1].body))
        request_id, last = carrier
        last.headers["ts_stream_next"] = "true"
        piece = _answer_head(request_id, last, 0)
        while order:
            parts, size = [piece], 0
            while order and (size == 0 or size + len(order[0][1].body) <= FRAME_BYTES):
                size += len(order[0][1].body)
                parts += _answer(*order.pop(0))
            _send(connection, parts)
        last.headers["ts_stream_next"] = "false"
        answers = [carrier]
    _send(connection, [part for answer in answers for part in _answer(*answer)])


def write_failure(
    connection: socket.socket, frames: Sequence[Frame], code: int, message: str
) -> None:
    """Answers a command, or every request of a batch, with an error of TorchServe's own form."""
    frame = [_INT.pack(code), _sized_text(message)]
    for each in frames:
        frame += [_sized(each.request_id), _ZERO, _INT.pack(code), _ZERO, _ZERO, _sized(b"error")]
    connection.sendall(b"".join(frame) + _END)


class Worker:
    """A loaded model and the ports it answers on; batches of both take turns.

    Args:
        connection: To TorchServe's frontend.
        metrics: TorchServe's cache of metrics, which prints them for the frontend to read.
    """

    def __init__(self, connection: socket.socket, metrics: Any) -> None:
        self._connection = connection
        self._number: tuple[int, IO[str]] | None = None
        self._metrics = metrics
        self._reader = Reader(connection)
        self._service: Any = None
        self._lock = threading.Lock()  # of the metrics

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
                reply = _INT.pack(200) + _sized_text("loaded model") + _END
                self._connection.sendall(reply)
            elif command == b"I" and self._service is not None:
                self._answer_frontend(read_batch(self._reader))
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
        if "FLIP_DIRECT_PORT" in os.environ:
            self._number = take_number(
                Path(os.environ["FLIP_SOCKETS"]), int(os.environ["FLIP_WORKERS"])
            )
            gpu = self._number[0]
        loaded = TsModelLoader().load(
            *(name, folder, handler, gpu, batch_size, None, True), self._metrics
        )
        handler = loaded._entry_point.__self__  # noqa: SLF001 - the loader shows it in no other way
        self._service = handler.service
        self._understand = sys.modules[type(handler).__module__].understand
        _spare_collector()
        if self._number is not None:
            version = loaded.context.manifest["model"]["modelVersion"]
            self._serve_directly(self._number[0], name, version)

    def _answer_frontend(self, frames: list[Frame]) -> None:
        started = time.perf_counter()
        service = self._service
        try:
            read = [service.read(self._understand(each.headers, each.inputs)) for each in frames]
            jobs = [each for each in read if not isinstance(each, Response)]
            answers = iter(service.answer(jobs))
            responses = [each if isinstance(each, Response) else next(answers) for each in read]
        except Exception:
            logger.exception("the handler failed")
            write_failure(self._connection, frames, 503, "Prediction failed")
            return
        duration_ms = round((time.perf_counter() - started) * 1e3, 2)
        # The first id stands for all: the frontend has to parse the line.
        with self._lock:
            self._metrics.request_ids = {0: frames[0].request_id.decode()}
            self._metrics.add_time("PredictionTime", duration_ms)
        write_replies(self._connection, frames, responses)

    def _serve_directly(self, number: int, model: str, version: str) -> None:
        """Opens the direct port, in a thread; if that ends, the whole worker does."""
        server = DirectServer(self._service, model, version, self._count)
        folder = Path(os.environ["FLIP_SOCKETS"])
        port = os.environ["FLIP_DIRECT_HOST"], int(os.environ["FLIP_DIRECT_PORT"])
        opened = threading.Event()

        def run() -> None:
            try:
                edge, proof = worker_socket(folder, number), proof_socket(folder, number)
                server.run([port, edge], opened.set, proof)
            except BaseException:
                logger.exception("the direct port failed")
                os._exit(1)

        threading.Thread(target=run, name="direct", daemon=True).start()
        opened.wait()

    def _count(self, counts: dict[str, float]) -> None:
        """Prints counters of the direct port, for TorchServe to publish among its metrics."""
        with self._lock:
            for name, value in counts.items():
                self._metrics.add_counter(name, value)


def _spare_collector() -> None:
    """Keeps Python's cycle collector away from what stays, and from requests in flight.

    A full collection walks everything that was imported, for tens of milliseconds in which
    nobody is answered, and a batch of 100 requests holds enough objects to set one off.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def _answer(request_id: bytes, response: Response) -> list[bytes]:
    return [_answer_head(request_id, response, len(response.body)), response.body]


def _answer_head(request_id: bytes, response: Response, length: int) -> bytes:
    """Everything of an answer that stands before its body."""
    headers = response.headers | {"content-type": response.content_type}
    parts = [_sized(request_id), _sized_text(response.content_type), _INT.pack(response.status)]
    parts += [_sized_text(response.phrase), _INT.pack(len(headers))]
    for name, value in headers.items():
        parts += [_sized_text(name), _sized_text(value)]
    parts.append(_INT.pack(length))
    return b"".join(parts)


def _send(connection: socket.socket, answers: Sequence[bytes]) -> None:
    connection.sendall(b"".join([_SUCCESS, *answers, _END]))


def _sized(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


@lru_cache(maxsize=1024)
def _sized_text(text: str) -> bytes:
    return _sized(text.encode())


@lru_cache(maxsize=1024)
def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


_ZERO = _INT.pack(0)
_SUCCESS = _INT.pack(200) + _sized_text("Prediction success")


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
    except Exception:
        logger.exception("Backend worker process died.")
        status = 1
    if arguments.sock_name is not None:
        arguments.sock_name.unlink(missing_ok=True)
    # At once: the interpreter's end could crash or hang in the direct port's thread.
    os._exit(status)


if __name__ == "__main__":
    main()
