"""TorchServe's protocol between its frontend and a worker, read and written in bulk.

The same to the byte (pytorch/serve 0.12.0: ts/protocol/otf_message_handler.py), with two
differences:

- Requests are read through one buffer. TorchServe's own reader makes four system calls a
  request header, which was half of the time of a worker under small requests.
- Large answers of a batch leave in frames of their own. The frontend decodes a frame in
  quadratic time: with every read of the socket it parses the frame from its start, and
  copies each finished answer again (ModelResponseDecoder.java). Four answers of 16 MiB in
  one frame took it 15 s.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from diagonalflip.message import Response

FRAME_BYTES = 1 << 18
"""Answers of a batch share a frame up to here: a few reads of the socket."""

FIRST_BUFFER_BYTES = 1 << 18

_INT = struct.Struct("!i")
_END = _INT.pack(-1)


class DisconnectedError(Exception):
    """The frontend closed the connection: it stops, or gives this worker up."""


class FrameReader:
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


def read_batch(reader: FrameReader) -> list[Frame]:
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


def write_loaded(connection: socket.socket) -> None:
    """Answers a load command: the model is there."""
    connection.sendall(_INT.pack(200) + _sized_text("loaded model") + _END)


def write_responses(connection: socket.socket, answered: Iterable[tuple[Frame, Response]]) -> None:
    """Sends the responses to one batch as they come, in frames that keep the frontend quick.

    Every frame but the last also holds an empty piece of one response, the carrier, marked as
    streaming: that tells the frontend that the batch goes on (BatchAggregator.java). It is the
    first good one, for the frontend closes the connection of a refused client at once.
    """
    carrier: tuple[Frame, Response] | None = None
    parts: list[bytes] = []
    size = 0
    for frame, response in answered:
        if carrier is None and response.status < HTTPStatus.BAD_REQUEST:
            carrier = frame, response
            continue
        if carrier is not None and parts and size + len(response.body) > FRAME_BYTES:
            _send(connection, [*parts, _piece(*carrier)])
            parts, size = [], 0
        parts.append(_answer(frame, response))
        size += len(response.body)
    if carrier is not None:
        if parts and size + len(carrier[1].body) > FRAME_BYTES:
            _send(connection, [*parts, _piece(*carrier)])
            parts = []
        if "ts_stream_next" in carrier[1].headers:
            carrier[1].headers["ts_stream_next"] = "false"
        parts.append(_answer(*carrier))
    _send(connection, parts)


def _answer(frame: Frame, response: Response) -> bytes:
    return _answer_head(frame, response, len(response.body)) + response.body


def _piece(frame: Frame, response: Response) -> bytes:
    """The empty beginning of a response that goes on in a later frame."""
    response.headers["ts_stream_next"] = "true"
    return _answer_head(frame, response, 0)


def _answer_head(frame: Frame, response: Response, length: int) -> bytes:
    """Everything of an answer that stands before its body."""
    headers = response.headers | {"content-type": response.content_type}
    parts = [_sized(frame.request_id), _sized_text(response.content_type)]
    parts += [_INT.pack(response.status), _sized_text(response.phrase), _INT.pack(len(headers))]
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


_SUCCESS = _INT.pack(200) + _sized_text("Prediction success")
