"""The process behind each of TorchServe's workers: its protocol, read and written in bulk.

TorchServe's frontend starts ``ts/model_service_worker.py``; server/torchserve.py puts this
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
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import TsModelLoader

FRAME_BYTES = 1 << 18
"""Answers of a batch share a frame up to here: a few reads of the socket."""

ACCEPT_TIMEOUT_S = 30.0
FIRST_BUFFER_BYTES = 1 << 18

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


@dataclass
class Item:
    """One request of a batch, and what the handler has set for its answer."""

    request_id: bytes
    headers: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    phrase: str = ""
    content_type: str = ""
    response_headers: dict[str, str] = field(default_factory=dict)


class BatchContext:
    """A batch as the handler sees it: the part of ``ts.context.Context`` that ours uses."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """Request headers in the client's spelling."""
        return self._items[index].headers

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """HTTP status of one answer."""
        self._items[idx].status, self._items[idx].phrase = code, phrase

    def set_response_content_type(self, idx: int, value: str) -> None:
        """``Content-Type`` of one answer."""
        self._items[idx].content_type = value
        self._items[idx].response_headers["content-type"] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """A header of one answer."""
        self._items[idx].response_headers[key] = value


def read_batch(reader: Reader) -> list[Item]:
    """Reads a prediction command behind its first byte: the requests of one batch."""
    items: list[Item] = []
    while (request_id := reader.sized()) is not None:
        item = Item(request_id)
        while (name := reader.sized()) is not None:
            item.headers[_text(name)] = (reader.sized() or b"").decode("utf-8", "replace")
        while (name := reader.sized()) is not None:
            reader.sized()  # content type of the input: the headers have it
            item.inputs[_text(name)] = reader.sized() or b""
        items.append(item)
    return items


def write_replies(connection: socket.socket, items: Sequence[Item], bodies: list[bytes]) -> None:
    """Sends the answers of one batch, in as many frames as keeps the frontend quick.

    Every frame but the last also holds an empty piece of one answer, the carrier, marked as
    streaming: that tells the frontend that the batch goes on (BatchAggregator.java).
    """
    if sum(map(len, bodies)) > FRAME_BYTES and len(bodies) > 1:
        *order, carrier = sorted(range(len(bodies)), key=lambda index: len(bodies[index]))
        items[carrier].response_headers["ts_stream_next"] = "true"
        piece = [_answer_head(items[carrier], 0)]
        while order:
            frame, size = list(piece), 0
            while order and (size == 0 or size + len(bodies[order[0]]) <= FRAME_BYTES):
                index = order.pop(0)
                frame += [_answer_head(items[index], len(bodies[index])), bodies[index]]
                size += len(bodies[index])
            _send(connection, frame)
        items[carrier].response_headers["ts_stream_next"] = "false"
        items, bodies = [items[carrier]], [bodies[carrier]]
    frame = []
    for item, body in zip(items, bodies, strict=True):
        frame += [_answer_head(item, len(body)), body]
    _send(connection, frame)


def write_failure(
    connection: socket.socket, items: Sequence[Item], code: int, message: str
) -> None:
    """Answers a command, or every request of a batch, with an error of TorchServe's own form."""
    frame = [_INT.pack(code), _sized_text(message)]
    for item in items:
        frame += [_sized(item.request_id), _ZERO, _INT.pack(code), _ZERO, _ZERO, _sized(b"error")]
    connection.sendall(b"".join(frame) + _END)


def serve(connection: socket.socket, metrics: Any) -> None:
    """Loads the model that the frontend names, then answers batches until it disconnects."""
    reader = Reader(connection)
    service = None
    while True:
        command = reader.take(1)
        if command == b"L":
            service = _load(reader, metrics)
            connection.sendall(_INT.pack(200) + _sized_text("loaded model") + _END)
        elif command == b"I" and service is not None:
            _answer(connection, service, read_batch(reader))
        else:
            raise ValueError(f"command {command!r}")


def _load(reader: Reader, metrics: Any) -> Any:
    """Reads a load command and has TorchServe's own loader load the archive."""
    name, folder = reader.text(), reader.text()
    batch_size = reader.number()
    handler = reader.text()
    gpu = reader.number()
    reader.text()  # an envelope, which we have none of
    reader.take(1)  # whether Pillow's limit holds; the handler sees to it
    metrics.model_name = name
    logger.info("model_name: %s, batchSize: %d", name, batch_size)
    return TsModelLoader().load(
        name, folder, handler, gpu if gpu >= 0 else None, batch_size, None, True, metrics
    )


def _answer(connection: socket.socket, service: Any, items: list[Item]) -> None:
    started = time.perf_counter()
    try:
        handle = service._entry_point  # noqa: SLF001 - the loader shows it in no other way
        bodies = handle([item.inputs for item in items], BatchContext(items))
    except Exception:
        logger.exception("the handler failed")
        write_failure(connection, items, 503, "Prediction failed")
        return
    duration_ms = round((time.perf_counter() - started) * 1e3, 2)
    metrics = service.context.metrics
    metrics.request_ids = {0: items[0].request_id.decode()}  # all of them: a long line to parse
    metrics.add_time("PredictionTime", duration_ms)
    write_replies(connection, items, bodies)


def _answer_head(item: Item, length: int) -> bytes:
    """Everything of an answer that stands before its body."""
    parts = [_sized(item.request_id), _sized_text(item.content_type), _INT.pack(item.status)]
    parts += [_sized_text(item.phrase), _INT.pack(len(item.response_headers))]
    for name, value in item.response_headers.items():
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
    parser.add_argument("--sock-type", choices=["unix"], required=True)
    parser.add_argument("--sock-name", type=Path, required=True)
    parser.add_argument("--metrics-config", required=True)
    arguments = parser.parse_args()
    # This file's folder must not offer modules to the handler.
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)

    metrics = MetricsCacheYamlImpl(arguments.metrics_config)
    metrics.initialize_cache()
    arguments.sock_name.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(ACCEPT_TIMEOUT_S)
        listener.bind(str(arguments.sock_name))
        listener.listen(1)
        # The frontend waits for these two lines, word for word.
        logger.info("[PID]%d", os.getpid())
        logger.info("Torch worker started.")
        connection, _ = listener.accept()
    try:
        with connection:
            connection.setblocking(True)
            serve(connection, metrics)
    except DisconnectedError:
        logger.info("Frontend disconnected.")
    except Exception:
        logger.exception("Backend worker process died.")
        sys.exit(1)
    finally:
        arguments.sock_name.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
